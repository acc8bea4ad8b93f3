// The operators' names, and their CPU side.
#include "bias_act.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

namespace ganc {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a thread is not worth its start

// Elements begin … stop of one bias (kBias 1), of consecutive ones (2) or of none (0). An
// activation that kAct names is a constant here, so that the loop becomes vector code.
template <int kOrder, Act kAct, int kBias, typename T>
void row(int64_t begin, int64_t stop, Rule<at::opmath_type<T>> rule, const T* a, const T* dy,
         const T* ref, const T* bias, T* out) {
  using Math = at::opmath_type<T>;
  if constexpr (kAct != Act::of_rule) rule.act = kAct;
  const Math same = kBias == 1 ? static_cast<Math>(*bias) : Math(0);
  for (int64_t i = begin; i < stop; ++i) {
    const Math b = kBias == 2 ? static_cast<Math>(bias[i - begin]) : same;
    out[i] = static_cast<T>(element<kOrder, Math>(
        rule, static_cast<Math>(a[i]), kOrder == 2 ? static_cast<Math>(dy[i]) : Math(0),
        kOrder > 0 ? static_cast<Math>(ref[i]) : Math(0), b));
  }
}

template <int kOrder, Act kAct, typename T>
void walk_all(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const T* a, const T* dy,
              const T* ref, const T* bias, T* out) {
  at::parallel_for(0, walk.numel, kGrain, [&](int64_t begin, int64_t end) {
    if (!bias) return row<kOrder, kAct, 0>(begin, end, rule, a, dy, ref, bias, out);
    while (begin < end) {
      const int64_t first = begin / walk.step % walk.channels;
      const int64_t left = walk.step == 1 ? walk.channels - first : walk.step - begin % walk.step;
      const int64_t stop = std::min(end, begin + left);
      if (walk.step == 1) {
        row<kOrder, kAct, 2>(begin, stop, rule, a, dy, ref, bias + first, out);
      } else {
        row<kOrder, kAct, 1>(begin, stop, rule, a, dy, ref, bias + first, out);
      }
      begin = stop;
    }
  });
}

template <int kOrder, typename T>
void run(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const T* a, const T* dy,
         const T* ref, const T* bias, T* out) {
  switch (rule.act) {
    case Act::linear:
      return walk_all<kOrder, Act::linear>(walk, rule, a, dy, ref, bias, out);
    case Act::lrelu:
      return walk_all<kOrder, Act::lrelu>(walk, rule, a, dy, ref, bias, out);
    default:
      return walk_all<kOrder, Act::of_rule>(walk, rule, a, dy, ref, bias, out);
  }
}

template <int kOrder>
at::Tensor launch(const at::Tensor& a, const std::optional<at::Tensor>& dy,
                  const std::optional<at::Tensor>& ref, const std::optional<at::Tensor>& bias,
                  int64_t dim, c10::string_view act, double alpha, double gain,
                  std::optional<double> clamp) {
  at::Tensor out = at::empty_like(a);
  const Walk walk = walk_of(a, bias, dim);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, a.scalar_type(), "bias_act", [&] {
    const auto rule = make_rule<scalar_t>(act, alpha, gain, clamp);
    run<kOrder, scalar_t>(walk, rule, a.const_data_ptr<scalar_t>(), data<scalar_t>(dy),
                          data<scalar_t>(ref), data<scalar_t>(bias),
                          out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> launch_sums(const at::Tensor& dy, const at::Tensor& ref,
                                               const std::optional<at::Tensor>& bias, int64_t dim,
                                               c10::string_view act, double alpha, double gain,
                                               std::optional<double> clamp) {
  at::Tensor dx = launch<1>(dy, std::nullopt, ref, bias, dim, act, alpha, gain, clamp);
  return {dx, sum_but(dx, dim)};
}

}  // namespace

#include "bias_act_entry.h"

}  // namespace ganc

TORCH_LIBRARY(ganc, m) {
  m.def(
      "bias_act(Tensor x, Tensor? bias, int dim, str act, float alpha, float gain, float? clamp)"
      " -> Tensor");
  m.def(
      "bias_act_grad(Tensor dy, Tensor ref, Tensor? bias, int dim, str act, float alpha,"
      " float gain, float? clamp) -> Tensor");
  m.def(
      "bias_act_grads(Tensor dy, Tensor ref, Tensor? bias, int dim, str act, float alpha,"
      " float gain, float? clamp) -> (Tensor, Tensor)");
  m.def(
      "bias_act_grad_grad(Tensor ddx, Tensor dy, Tensor x, Tensor? bias, int dim, str act,"
      " float alpha, float gain, float? clamp) -> Tensor");
}

TORCH_LIBRARY_IMPL(ganc, CPU, m) { ganc::implement(m); }
