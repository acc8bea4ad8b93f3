// What one element of bias_act and of its derivatives is, for every device, and how tensors are
// walked. The plain-torch twin (ganc/ops/bias_act.py) is the reference.
//
// The derivatives read "ref", which is
//   the output y   of activations that are made of straight lines: the slope shows in y, and y is
//                  what the next layer keeps anyway, so that x need not stay in memory;
//   the input x    of the others (before the bias).
#pragma once

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/sum.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

namespace ganc {

// of_rule is for template arguments alone: the activation stands in the rule, known when running.
enum class Act : int { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish, of_rule };

constexpr std::string_view kActs[] = {"linear", "relu", "lrelu",    "tanh", "sigmoid",
                                      "elu",    "selu", "softplus", "swish"};

inline Act act_of(std::string_view name) {
  for (int i = 0; i < 9; ++i) {
    if (kActs[i] == name) return static_cast<Act>(i);
  }
  TORCH_CHECK(false, "bias_act: unknown activation ", std::string(name));
}

C10_HOST_DEVICE constexpr bool is_piecewise_linear(Act act) {
  return act == Act::linear || act == Act::relu || act == Act::lrelu;
}

// What one element may need beside its inputs. T computes: float, or double for double.
template <typename T>
struct Rule {
  Act act;
  T alpha;  // slope of lrelu below zero
  T gain;
  T limit;  // of the absolute value; infinite where nothing is clamped
};

// selu, to the digits that torch has
#define GANC_SELU_SCALE 1.0507009873554804934193349852946
#define GANC_SELU_ALPHA 1.6732632423543772848170429916717

// f(z)
template <typename T>
C10_HOST_DEVICE inline T value(Act act, T z, T alpha) {
  switch (act) {
    case Act::linear: return z;
    case Act::relu: return z > T(0) ? z : T(0);
    case Act::lrelu: return z > T(0) ? z : z * alpha;
    case Act::tanh: return std::tanh(z);
    case Act::sigmoid: return T(1) / (T(1) + std::exp(-z));
    case Act::elu: return z > T(0) ? z : std::expm1(z);
    case Act::selu:
      return T(GANC_SELU_SCALE) * (z > T(0) ? z : T(GANC_SELU_ALPHA) * std::expm1(z));
    case Act::softplus: return z > T(20) ? z : std::log1p(std::exp(z));
    default: return z / (T(1) + std::exp(-z));
  }
}

// f'(z); of straight lines, from the sign of f(z) alone
template <typename T>
C10_HOST_DEVICE inline T slope(Act act, T z, T alpha) {
  const T s = T(1) / (T(1) + std::exp(-z));
  switch (act) {
    case Act::linear: return T(1);
    case Act::relu: return z > T(0) ? T(1) : T(0);
    case Act::lrelu: return z > T(0) ? T(1) : alpha;
    case Act::tanh: {
      const T t = std::tanh(z);
      return T(1) - t * t;
    }
    case Act::sigmoid: return s * (T(1) - s);
    case Act::elu: return z > T(0) ? T(1) : std::exp(z);
    case Act::selu:
      return T(GANC_SELU_SCALE) * (z > T(0) ? T(1) : T(GANC_SELU_ALPHA) * std::exp(z));
    case Act::softplus: return z > T(20) ? T(1) : s;
    default: return s * (T(1) + z * (T(1) - s));
  }
}

// f''(z)
template <typename T>
C10_HOST_DEVICE inline T bend(Act act, T z) {
  const T s = T(1) / (T(1) + std::exp(-z));
  switch (act) {
    case Act::tanh: {
      const T t = std::tanh(z);
      return T(-2) * t * (T(1) - t * t);
    }
    case Act::sigmoid: return s * (T(1) - s) * (T(1) - T(2) * s);
    case Act::elu: return z > T(0) ? T(0) : std::exp(z);
    case Act::selu:
      return z > T(0) ? T(0) : T(GANC_SELU_SCALE) * T(GANC_SELU_ALPHA) * std::exp(z);
    case Act::softplus: return z > T(20) ? T(0) : s * (T(1) - s);
    case Act::swish: return s * (T(1) - s) * (T(2) + z * (T(1) - T(2) * s));
    default: return T(0);
  }
}

// kOrder 0: y of a = x.  1: dx of a = dy, ref.  2: of a = the gradient of dx and dy, what x gets.
template <int kOrder, typename T>
C10_HOST_DEVICE inline T element(const Rule<T>& rule, T a, T dy, T ref, T bias) {
  if constexpr (kOrder == 0) {
    const T y = value(rule.act, a + bias, rule.alpha) * rule.gain;
    // Written so that NaN stays NaN, as torch's clamp has it.
    return y > rule.limit ? rule.limit : (y < -rule.limit ? -rule.limit : y);
  }
  if (kOrder == 1 && is_piecewise_linear(rule.act)) {
    if (!(std::abs(ref) < rule.limit)) return T(0);
    return a * rule.gain * slope(rule.act, rule.gain < T(0) ? -ref : ref, rule.alpha);
  }
  const T z = ref + bias;
  if (!(std::abs(value(rule.act, z, rule.alpha) * rule.gain) < rule.limit)) return T(0);
  if constexpr (kOrder == 1) return a * rule.gain * slope(rule.act, z, rule.alpha);
  return a * dy * rule.gain * bend(rule.act, z);
}

// T stores. The limit is what T makes of it: a derivative finds clamped values by being equal to it.
template <typename T>
Rule<at::opmath_type<T>> make_rule(std::string_view act, double alpha, double gain,
                                   std::optional<double> clamp) {
  using Math = at::opmath_type<T>;
  const Math limit = clamp ? static_cast<Math>(static_cast<T>(*clamp))
                           : std::numeric_limits<Math>::infinity();
  return {act_of(act), static_cast<Math>(alpha), static_cast<Math>(gain), limit};
}

// The channel of element i in memory order is (i / step) % channels.
struct Walk {
  int64_t numel;
  int64_t step;
  int64_t channels;
};

inline Walk walk_of(const at::Tensor& x, const std::optional<at::Tensor>& bias, int64_t dim) {
  if (!bias) return {x.numel(), 1, 1};
  return {x.numel(), x.stride(dim), x.size(dim)};
}

// Sums over every dimension but one.
inline at::Tensor sum_but(const at::Tensor& x, int64_t dim) {
  std::vector<int64_t> others;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (d != dim) others.push_back(d);
  }
  return others.empty() ? x.clone() : at::sum(x, at::IntArrayRef(others));
}

template <typename T>
const T* data(const std::optional<at::Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

}  // namespace ganc
