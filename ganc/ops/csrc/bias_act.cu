// The CUDA side: memory-bound, so everything is about moving 16 bytes at a time.
#include "bias_act.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

namespace ganc {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostIndexed = int64_t(1) << 30;  // elements of a launch with 32-bit indices

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T at[kWidth];
};

template <typename T>
constexpr int kVector = 16 / sizeof(T);  // elements that one thread moves at once

template <typename T, int kWidth>
__device__ inline Pack<T, kWidth> load(const T* from, int64_t i) {
  return reinterpret_cast<const Pack<T, kWidth>*>(from)[i];
}

// kAct is the activation, or Act::of_rule. One that is known when compiling needs no switch over
// activations, which would cost more than the memory.
template <int kOrder, Act kAct, typename T, int kWidth, typename Index>
__global__ void __launch_bounds__(kThreads)
    kernel(Index count, Index step, Index channels, Rule<at::opmath_type<T>> rule,
           const T* __restrict__ a, const T* __restrict__ dy, const T* __restrict__ ref,
           const T* __restrict__ bias, T* __restrict__ out) {
  using Math = at::opmath_type<T>;
  if constexpr (kAct != Act::of_rule) rule.act = kAct;
  const Index stride = Index(gridDim.x) * kThreads;
  for (Index i = Index(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride) {
    const auto va = load<T, kWidth>(a, i);
    Pack<T, kWidth> vdy, vref, vbias, result;
    if constexpr (kOrder == 2) vdy = load<T, kWidth>(dy, i);
    if constexpr (kOrder > 0) vref = load<T, kWidth>(ref, i);
    // A vector lies within one channel, or holds consecutive ones that do not wrap: the host sees
    // to it.
    const Index first = bias ? (i * kWidth / step) % channels : 0;
    if (bias && step == 1) vbias = load<T, kWidth>(bias, first / kWidth);
    const Math same = bias && step != 1 ? static_cast<Math>(bias[first]) : Math(0);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const Math b = bias && step == 1 ? static_cast<Math>(vbias.at[k]) : same;
      result.at[k] = static_cast<T>(element<kOrder, Math>(
          rule, static_cast<Math>(va.at[k]),
          kOrder == 2 ? static_cast<Math>(vdy.at[k]) : Math(0),
          kOrder > 0 ? static_cast<Math>(vref.at[k]) : Math(0), b));
    }
    reinterpret_cast<Pack<T, kWidth>*>(out)[i] = result;
  }
}

// The derivative of a vector, which is also added to sums: of its elements, or one sum of all.
template <int kSums, typename T, int kWidth, typename Math>
__device__ inline void derive(const Rule<Math>& rule, int64_t i, const T* dy, const T* ref,
                              const Math* b, T* out, Math* sums) {
  const auto vdy = load<T, kWidth>(dy, i);
  const auto vref = load<T, kWidth>(ref, i);
  Pack<T, kWidth> result;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const Math value = element<1, Math>(rule, static_cast<Math>(vdy.at[k]), Math(0),
                                        static_cast<Math>(vref.at[k]), b[k % kSums]);
    result.at[k] = static_cast<T>(value);
    sums[k % kSums] += value;
  }
  reinterpret_cast<Pack<T, kWidth>*>(out)[i] = result;
}

// The derivative, and sums of it. A block walks a part of one plane: "vectors" vectors of one
// channel; plane p is of channel p % channels, and its parts' sums lie side by side.
template <Act kAct, typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    planes(uint32_t vectors, uint32_t part, uint32_t channels, Rule<at::opmath_type<T>> rule,
           const T* __restrict__ dy, const T* __restrict__ ref, const T* __restrict__ bias,
           T* __restrict__ out, at::opmath_type<T>* __restrict__ sums) {
  using Math = at::opmath_type<T>;
  if constexpr (kAct != Act::of_rule) rule.act = kAct;
  const int64_t plane = int64_t(blockIdx.x) * vectors;
  const uint32_t begin = blockIdx.y * part, end = min(begin + part, vectors);
  const Math b = bias ? static_cast<Math>(bias[blockIdx.x % channels]) : Math(0);
  Math sum = 0;
#pragma unroll 2
  for (uint32_t i = begin + threadIdx.x; i < end; i += kThreads) {
    derive<1, T, kWidth, Math>(rule, plane + i, dy, ref, &b, out, &sum);
  }
  constexpr int kWarp = 32;
  __shared__ Math warps[kThreads / kWarp];
  for (int lane = kWarp / 2; lane > 0; lane /= 2) sum += __shfl_down_sync(~0u, sum, lane);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kThreads / kWarp; ++warp) sum += warps[warp];
    sums[int64_t(blockIdx.x) * gridDim.y + blockIdx.y] = sum;
  }
}

// The same where channels lie side by side: "vectors" vectors are a row of all channels. A thread
// stays with its channels; a block has one sum per channel.
template <Act kAct, typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    columns(int64_t rows, uint32_t vectors, Rule<at::opmath_type<T>> rule,
            const T* __restrict__ dy, const T* __restrict__ ref, const T* __restrict__ bias,
            T* __restrict__ out, at::opmath_type<T>* __restrict__ sums) {
  using Math = at::opmath_type<T>;
  if constexpr (kAct != Act::of_rule) rule.act = kAct;
  const uint32_t lanes = kThreads / vectors;  // rows that a block walks side by side
  const uint32_t column = threadIdx.x % vectors, lane = threadIdx.x / vectors;
  Math b[kWidth], sum[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    b[k] = bias ? static_cast<Math>(bias[column * kWidth + k]) : Math(0);
    sum[k] = 0;
  }
  if (lane < lanes) {
#pragma unroll 2
    for (int64_t row = int64_t(blockIdx.x) * lanes + lane; row < rows;
         row += int64_t(gridDim.x) * lanes) {
      derive<kWidth, T, kWidth, Math>(rule, row * vectors + column, dy, ref, b, out, sum);
    }
  }
  __shared__ Math all[kWidth][kThreads];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) all[k][threadIdx.x] = sum[k];
  __syncthreads();
  if (lane > 0) return;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    for (uint32_t other = 1; other < lanes; ++other) sum[k] += all[k][other * vectors + column];
    sums[(int64_t(blockIdx.x) * vectors + column) * kWidth + k] = sum[k];
  }
}

// Blocks of a kernel that run at once: one more would wait for all of them.
template <typename Kernel>
int64_t blocks_at_once(Kernel kernel) {
  int device = 0, multiprocessors = 0, blocks = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  C10_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, 0));
  return int64_t(blocks) * multiprocessors;
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
                      reinterpret_cast<uintptr_t>(ref) | reinterpret_cast<uintptr_t>(bias) |
                      reinterpret_cast<uintptr_t>(out);
    return bits % 16 == 0;
  }
};

template <int kOrder, Act kAct, typename T, int kWidth, typename Index>
void start(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const Pointers<T>& p) {
  const int64_t count = walk.numel / kWidth;
  // A vector per thread; only what outgrows a grid makes threads go on.
  constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMostBlocks);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  kernel<kOrder, kAct, T, kWidth, Index><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      static_cast<Index>(count), static_cast<Index>(walk.step), static_cast<Index>(walk.channels),
      rule, p.a, p.dy, p.ref, p.bias, p.out);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// One launch with 32-bit indices: whole vectors first, what is left over one by one.
template <int kOrder, typename T>
void part(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const Pointers<T>& p) {
  constexpr int kWidth = kVector<T>;
  const bool regular =
      !p.bias || (walk.step == 1 ? walk.channels : walk.step) % kWidth == 0;
  if (!regular || !p.aligned() || walk.numel < kWidth) {
    return start<kOrder, Act::of_rule, T, 1, uint32_t>(walk, rule, p);
  }
  const int64_t whole = walk.numel / kWidth * kWidth;
  const Walk vectors{whole, walk.step, walk.channels};
  switch (rule.act) {
    case Act::linear: start<kOrder, Act::linear, T, kWidth, uint32_t>(vectors, rule, p); break;
    case Act::lrelu: start<kOrder, Act::lrelu, T, kWidth, uint32_t>(vectors, rule, p); break;
    default: start<kOrder, Act::of_rule, T, kWidth, uint32_t>(vectors, rule, p);
  }
  if (whole < walk.numel) {  // only without bias: with one, rows are whole vectors
    const Walk rest{walk.numel - whole, 1, 1};
    start<kOrder, Act::of_rule, T, 1, uint32_t>(rest, rule, p.from(whole));
  }
}

template <int kOrder, typename T>
void run(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const Pointers<T>& p) {
  const int64_t period = walk.step * walk.channels;
  if (walk.numel == 0) return;
  if (period > kMostIndexed) {
    return start<kOrder, Act::of_rule, T, 1, int64_t>(walk, rule, p);
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
    const auto rule = make_rule<scalar_t>(act, alpha, gain, clamp);
    const Pointers<scalar_t> pointers{a.const_data_ptr<scalar_t>(), data<scalar_t>(dy),
                                      data<scalar_t>(ref), data<scalar_t>(bias),
                                      out.mutable_data_ptr<scalar_t>()};
    run<kOrder, scalar_t>(walk, rule, pointers);
  });
  return out;
}

constexpr int64_t kSmallPlane = 1024;    // elements below which a block is not worth its start
constexpr int64_t kVectorsPerThread = 8; // of a plane
constexpr int64_t kRowsPerThread = 4;    // at least, where channels lie side by side

// Calls planes or columns; returns what is left to sum, or nothing where neither fits.
template <Act kAct, typename T>
at::Tensor start_sums(const Walk& walk, const Rule<at::opmath_type<T>>& rule,
                      const Pointers<T>& p, const at::TensorOptions& options) {
  constexpr int kWidth = kVector<T>;
  using Math = at::opmath_type<T>;
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto kind = options.dtype(c10::CppTypeToScalarType<Math>::value);
  const int64_t period = walk.step * walk.channels;
  if (!p.aligned() || walk.numel == 0 || walk.numel % period) return {};
  if (walk.step == 1) {
    const int64_t vectors = walk.channels / kWidth, rows = walk.numel / walk.channels;
    if (walk.channels % kWidth || vectors > kThreads) return {};
    const int64_t wanted = rows / (kThreads / vectors * kRowsPerThread) + 1;
    const int64_t blocks = std::min(wanted, blocks_at_once(columns<kAct, T, kWidth>));
    at::Tensor sums = at::empty({blocks, walk.channels}, kind);
    columns<kAct, T, kWidth><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
        rows, static_cast<uint32_t>(vectors), rule, p.a, p.ref, p.bias, p.out,
        sums.mutable_data_ptr<Math>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return at::sum(sums, at::IntArrayRef{0});
  }
  const int64_t number = walk.numel / walk.step, vectors = walk.step / kWidth;
  const int64_t part = kThreads * kVectorsPerThread, parts = (vectors + part - 1) / part;
  constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1, kMostParts = 65535;
  if (walk.step % kWidth || walk.step < kSmallPlane || number > kMostBlocks || parts > kMostParts) {
    return {};
  }
  at::Tensor sums = at::empty({number / walk.channels, walk.channels, parts}, kind);
  const dim3 grid(static_cast<unsigned>(number), static_cast<unsigned>(parts));
  planes<kAct, T, kWidth><<<grid, kThreads, 0, stream>>>(
      static_cast<uint32_t>(vectors), static_cast<uint32_t>(part),
      static_cast<uint32_t>(walk.channels), rule, p.a, p.ref, p.bias, p.out,
      sums.mutable_data_ptr<Math>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return at::sum(sums, at::IntArrayRef{0, 2});
}

template <typename T>
at::Tensor run_sums(const Walk& walk, const Rule<at::opmath_type<T>>& rule, const Pointers<T>& p,
                    const at::TensorOptions& options) {
  switch (rule.act) {
    case Act::linear: return start_sums<Act::linear, T>(walk, rule, p, options);
    case Act::lrelu: return start_sums<Act::lrelu, T>(walk, rule, p, options);
    default: return start_sums<Act::of_rule, T>(walk, rule, p, options);
  }
}

// The gradients of x and of the bias in one pass over dy and ref. Sums are taken in a fixed order,
// so that a step gives the same bits whenever it runs.
std::tuple<at::Tensor, at::Tensor> launch_sums(const at::Tensor& dy, const at::Tensor& ref,
                                               const std::optional<at::Tensor>& bias, int64_t dim,
                                               c10::string_view act, double alpha, double gain,
                                               std::optional<double> clamp) {
  const c10::cuda::CUDAGuard guard(dy.device());
  at::Tensor dx = at::empty_like(dy), db;
  const Walk walk{ref.numel(), ref.stride(dim), ref.size(dim)};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dy.scalar_type(), "bias_act", [&] {
    const auto rule = make_rule<scalar_t>(act, alpha, gain, clamp);
    const Pointers<scalar_t> pointers{dy.const_data_ptr<scalar_t>(), nullptr,
                                      ref.const_data_ptr<scalar_t>(), data<scalar_t>(bias),
                                      dx.mutable_data_ptr<scalar_t>()};
    db = run_sums<scalar_t>(walk, rule, pointers, dy.options());
  });
  if (db.defined()) return {dx, db.to(ref.scalar_type())};
  dx = launch<1>(dy, std::nullopt, ref, bias, dim, act, alpha, gain, clamp);
  return {dx, sum_but(dx, dim)};
}

}  // namespace

#include "bias_act_entry.h"

}  // namespace ganc

TORCH_LIBRARY_IMPL(ganc, CUDA, m) { ganc::implement(m); }
