// The CUDA side: memory-bound, so everything is about moving 16 bytes at a time.
#include "bias_act.h"

#include <ATen/OpMathType.h>
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

namespace ganc {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;
constexpr int64_t kMostIndexed = int64_t(1) << 30;  // elements of a launch with 32-bit indices

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T at[kWidth];
};

// kAct is the activation where it is known when compiling, or swish for "as the rule says": the
// switch over activations would otherwise cost more than the memory.
template <int kOrder, Act kAct, typename T, int kWidth, typename Index>
__global__ void __launch_bounds__(kThreads)
    kernel(Index count, Index step, Index channels, Rule<at::opmath_type<T>> rule, const T* a,
           const T* dy, const T* ref, const T* bias, T* out) {
  using Math = at::opmath_type<T>;
  using Vector = Pack<T, kWidth>;
  if constexpr (kAct != Act::swish) rule.act = kAct;
  const Index stride = Index(gridDim.x) * kThreads;
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride) {
    const Vector va = reinterpret_cast<const Vector*>(a)[i];
    Vector vdy, vref, result;
    if constexpr (kOrder == 2) vdy = reinterpret_cast<const Vector*>(dy)[i];
    if constexpr (kOrder > 0) vref = reinterpret_cast<const Vector*>(ref)[i];
    // A vector lies within one channel, or holds consecutive ones that do not wrap: the host sees
    // to it.
    const Index first = bias ? (i * kWidth / step) % channels : 0;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const Math b = bias ? static_cast<Math>(bias[step == 1 ? first + k : first]) : Math(0);
      result.at[k] = static_cast<T>(element<kOrder, Math>(
          rule, static_cast<Math>(va.at[k]),
          kOrder == 2 ? static_cast<Math>(vdy.at[k]) : Math(0),
          kOrder > 0 ? static_cast<Math>(vref.at[k]) : Math(0), b));
    }
    reinterpret_cast<Vector*>(out)[i] = result;
  }
}

template <typename T>
struct Pointers {
  const T* a;
  const T* dy;
  const T* ref;
  const T* bias;
  T* out;

  Pointers from(int64_t offset) const {
    return {a + offset, dy ? dy + offset : dy, ref ? ref + offset : ref, bias, out + offset};
  }

  bool aligned() const {
    const auto bits = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(dy) |
                      reinterpret_cast<uintptr_t>(ref) | reinterpret_cast<uintptr_t>(out);
    return bits % 16 == 0;
  }
};

template <int kOrder, Act kAct, typename T, int kWidth, typename Index>
void start(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const Pointers<T>& p) {
  const int64_t count = walk.numel / kWidth;
  int device = 0, multiprocessors = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int64_t wanted = (count + kThreads - 1) / kThreads;
  const int64_t most = int64_t(multiprocessors) * kBlocksPerMultiprocessor * 4;
  const auto stream = c10::cuda::getCurrentCUDAStream();
  kernel<kOrder, kAct, T, kWidth, Index>
      <<<static_cast<unsigned>(std::min(wanted, most)), kThreads, 0, stream>>>(
          static_cast<Index>(count), static_cast<Index>(walk.step),
          static_cast<Index>(walk.channels), rule, p.a, p.dy, p.ref, p.bias, p.out);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// One launch with 32-bit indices: whole vectors first, what is left over one by one.
template <int kOrder, typename T>
void part(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const Pointers<T>& p) {
  constexpr int kWidth = 16 / sizeof(T);
  const bool regular =
      !p.bias || (walk.step == 1 ? walk.channels : walk.step) % kWidth == 0;
  if (!regular || !p.aligned() || walk.numel < kWidth) {
    return start<kOrder, Act::swish, T, 1, uint32_t>(walk, rule, p);
  }
  const int64_t whole = walk.numel / kWidth * kWidth;
  const Walk vectors{whole, walk.step, walk.channels};
  switch (rule.act) {
    case Act::linear: start<kOrder, Act::linear, T, kWidth, uint32_t>(vectors, rule, p); break;
    case Act::lrelu: start<kOrder, Act::lrelu, T, kWidth, uint32_t>(vectors, rule, p); break;
    default: start<kOrder, Act::swish, T, kWidth, uint32_t>(vectors, rule, p);
  }
  if (whole < walk.numel) {  // only without bias: with one, rows are whole vectors
    const Walk rest{walk.numel - whole, 1, 1};
    start<kOrder, Act::swish, T, 1, uint32_t>(rest, rule, p.from(whole));
  }
}

template <int kOrder, typename T>
void run(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const Pointers<T>& p) {
  const int64_t period = walk.step * walk.channels;
  if (walk.numel == 0) return;
  if (period > kMostIndexed) {
    return start<kOrder, Act::swish, T, 1, int64_t>(walk, rule, p);
  }
  const int64_t most = kMostIndexed / period * period;
  for (int64_t offset = 0; offset < walk.numel; offset += most) {
    const Walk piece{std::min(most, walk.numel - offset), walk.step, walk.channels};
    part<kOrder, T>(piece, rule, p.from(offset));
  }
}

template <int kOrder>
at::Tensor launch(const at::Tensor& a, const std::optional<at::Tensor>& dy,
                  const std::optional<at::Tensor>& ref, const std::optional<at::Tensor>& bias,
                  int64_t dim, c10::string_view act, double alpha, double gain,
                  std::optional<double> clamp) {
  const c10::cuda::CUDAGuard guard(a.device());
  at::Tensor out = at::empty_like(a);
  const Walk walk = walk_of(a, bias, dim);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, a.scalar_type(), "bias_act", [&] {
    const auto rule = make_rule<at::opmath_type<scalar_t>>(act, alpha, gain, clamp);
    const Pointers<scalar_t> pointers{a.const_data_ptr<scalar_t>(), data<scalar_t>(dy),
                                      data<scalar_t>(ref), data<scalar_t>(bias),
                                      out.mutable_data_ptr<scalar_t>()};
    run<kOrder, scalar_t>(walk, rule, pointers);
  });
  return out;
}

}  // namespace

#include "bias_act_entry.h"

}  // namespace ganc

TORCH_LIBRARY_IMPL(ganc, CUDA, m) { ganc::implement(m); }
