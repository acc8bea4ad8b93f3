// The CUDA side: a block makes a tile, its threads meet between the phases.
#include "filtered_lrelu.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <array>
#include <type_traits>

namespace ganc {
namespace filtered {
namespace {

constexpr int kResident = 512;  // threads that a multiprocessor is to have at once, at least
constexpr int kUnaskedBytes = 48 * 1024;  // of shared memory that a block gets without asking

// Double is for checks: one kernel will do.
template <typename T>
constexpr bool kHasFixed = !std::is_same_v<T, double>;

// Shared memory of a block: what leaves room for others on an H100, and what there is on demand.
std::array<int64_t, 2> scratch_bytes(int threads) {
  int device = 0, most = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return {std::min(most, threads * kUsualBytes), most};
}

template <typename Kind, bool kSloped, typename T>
__global__ void __launch_bounds__(Kind::columns, kResident / Kind::columns)
    kernel(const Plan plan, const Activation<at::opmath_type<T>> act, const Pointers<T> pointers,
           int64_t first_plane) {
  using Math = at::opmath_type<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  Math* scratch = reinterpret_cast<Math*>(memory);
  const unsigned tiles = plan.tiles_down * plan.tiles_across;
  const int64_t plane = first_plane + blockIdx.x / tiles;
  const int tile = static_cast<int>(blockIdx.x % tiles);
  const int thread = threadIdx.x, threads = blockDim.x;
  phase<0, Kind, kSloped, T>(thread, threads, plan, act, pointers, plane, tile, scratch);
  __syncthreads();
  phase<1, Kind, kSloped, T>(thread, threads, plan, act, pointers, plane, tile, scratch);
  __syncthreads();
  if constexpr (kSloped) {
    phase<2, Kind, kSloped, T>(thread, threads, plan, act, pointers, plane, tile, scratch);
    __syncthreads();
    phase<3, Kind, kSloped, T>(thread, threads, plan, act, pointers, plane, tile, scratch);
    __syncthreads();
  }
  phase<4, Kind, kSloped, T>(thread, threads, plan, act, pointers, plane, tile, scratch);
  __syncthreads();
  phase<5, Kind, kSloped, T>(thread, threads, plan, act, pointers, plane, tile, scratch);
  __syncthreads();
  phase<6, Kind, kSloped, T>(thread, threads, plan, act, pointers, plane, tile, scratch);
}

template <typename Kind, bool kSloped, typename T>
void run(const Plan& plan, const Activation<at::opmath_type<T>>& act, const Pointers<T>& pointers,
         int64_t planes) {
  const auto made = kernel<Kind, kSloped, T>;
  const int bytes = plan.scratch * static_cast<int>(sizeof(at::opmath_type<T>));
  if (bytes > kUnaskedBytes) {
    C10_CUDA_CHECK(
        cudaFuncSetAttribute(made, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  }
  const int threads = std::min(Kind::columns, round_up(plan.fine_columns, kLanes));
  const int64_t tiles = int64_t(plan.tiles_down) * plan.tiles_across;
  const int64_t most = std::max<int64_t>(1, std::numeric_limits<int32_t>::max() / tiles);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  for (int64_t first = 0; first < planes; first += most) {
    const int64_t blocks = std::min(most, planes - first) * tiles;
    made<<<static_cast<unsigned>(blocks), threads, bytes, stream>>>(plan, act, pointers, first);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

#include "filtered_lrelu_entry.h"

}  // namespace
}  // namespace filtered
}  // namespace ganc

TORCH_LIBRARY_IMPL(ganc, CUDA, m) { ganc::filtered::implement(m); }
