// The operators' names, and their CPU side: the phases of the CUDA kernel, one thread after the
// other, so that everything but the launch can be tried without a GPU.
#include "filtered_lrelu.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <array>
#include <utility>
#include <vector>

namespace ganc {
namespace filtered {
namespace {

constexpr int kThreads = 2 * kLanes;  // that are played

template <typename T>
constexpr bool kHasFixed = sizeof(T) > 2;  // how halves are computed is float's

// As on a GPU; what does not fit there has more here.
std::array<int64_t, 2> scratch_bytes(int threads) {
  return {threads * kUsualBytes, int64_t(1) << 28};
}

template <typename Kind, bool kSloped, typename T, int... kNumbers>
void run_tile(const Plan& plan, const Activation<at::opmath_type<T>>& act,
              const Pointers<T>& pointers, int64_t plane, int tile, at::opmath_type<T>* scratch,
              std::integer_sequence<int, kNumbers...>) {
  const auto all_threads = [&](auto number) {
    constexpr int kPhase = decltype(number)::value;
    if (!has_phase(kPhase, kSloped)) return;
    for (int thread = kThreads - 1; thread >= 0; --thread) {  // any order must do
      phase<kPhase, Kind, kSloped, T>(thread, kThreads, plan, act, pointers, plane, tile, scratch);
    }
  };
  (all_threads(std::integral_constant<int, kNumbers>()), ...);
}

template <typename Kind, bool kSloped, typename T>
void run(const Plan& plan, const Activation<at::opmath_type<T>>& act, const Pointers<T>& pointers,
         int64_t planes) {
  using Math = at::opmath_type<T>;
  const int64_t tiles = int64_t(plan.tiles_down) * plan.tiles_across;
  at::parallel_for(0, planes * tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<Math> scratch(plan.scratch);
    for (int64_t block = begin; block < end; ++block) {
      // What is read without having been written shows.
      std::fill(scratch.begin(), scratch.end(), std::numeric_limits<Math>::quiet_NaN());
      run_tile<Kind, kSloped, T>(plan, act, pointers, block / tiles,
                                 static_cast<int>(block % tiles), scratch.data(),
                                 std::make_integer_sequence<int, kPhases>());
    }
  });
}

#include "filtered_lrelu_entry.h"

}  // namespace
}  // namespace filtered
}  // namespace ganc

TORCH_LIBRARY_FRAGMENT(ganc, m) {
  m.def(
      "filtered_lrelu(Tensor x, Tensor bias, Tensor up_filter, Tensor down_filter, int up,"
      " int down, int pad0, int pad1, float slope, float gain, float? clamp) -> Tensor");
  m.def(
      "filtered_lrelu_grad(Tensor dy, Tensor x, Tensor bias, Tensor up_filter, Tensor down_filter,"
      " int up, int down, int pad0, int pad1, float slope, float gain, float? clamp) -> Tensor");
  m.def(
      "filtered_lrelu_tangent(Tensor ddx, Tensor x, Tensor bias, Tensor up_filter,"
      " Tensor down_filter, int up, int down, int pad0, int pad1, float slope, float gain,"
      " float? clamp) -> Tensor");
}

TORCH_LIBRARY_IMPL(ganc, CPU, m) { ganc::filtered::implement(m); }
