// One tile of filtered_lrelu and of its derivatives, for every device. The plain-torch twin
// (ganc/ops/filtered_lrelu.py) is the reference.
//
// All three are one pass: "a" goes up to the fine grid, is activated there, and comes down again.
//   value    a = x + bias; activated by the leaky ReLU
//   grad     a = dy, up by the transposed downsampling, down by the transposed upsampling;
//            multiplied by the leaky ReLU's slope at "b" = x + bias, which goes up beside it
//   tangent  a = ddx, on the way of the value; multiplied by the slope at b
// So no mask is kept, and the fine grid lives in registers: a thread walks down one of its columns,
// takes a row of a in, makes the fine pixels that it completes, adds each to the sums of the rows
// of the result that it belongs to, and puts out the sum that is done.
//
// Threads of a block share scratch memory and go through phases; a phase reads what those before
// wrote. "Thread" and "threads" are arguments, so that a CPU can play all of them.
#pragma once

#include <ATen/OpMathType.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

namespace ganc {
namespace filtered {

constexpr int kMostTaps = 32;
constexpr int kStrip = 8;         // fine pixels of a row that a thread makes from registers
constexpr int kStripOut = 4;      // pixels of the result likewise
constexpr int kMostRows = 48;     // of a tile
constexpr int kFewRows = 12;      // of a tile: before it has fewer, it becomes narrower
constexpr int kColumns = 128;     // of a tile's fine grid at most, as a rule: a thread for each
constexpr int kLanes = 32;        // of a warp: threads come in whole ones
constexpr int kUsualBytes = 440;  // of scratch memory for a thread: an H100 has it for 512 threads
constexpr int kPhases = 7;

inline int ceil_div(int a, int b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
inline int floor_div(int a, int b) { return -ceil_div(-a, b); }
inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

// i / by for i · by < 2^31, without a division.
struct Divider {
  uint32_t by = 1, magic = 0;
  Divider() = default;
  explicit Divider(int number) : by(number), magic((uint32_t(1) << 31) / number + 1) {}
  C10_HOST_DEVICE int quotient(int i) const {
    return static_cast<int>((static_cast<uint64_t>(i) * magic) >> 31);
  }
};

// How an axis is resampled, and the size of the tensor at the coarse end. Either way the fine pixel
// j and the coarse one i meet at a tap c, the filter (flipped if so) times "scale":
//   up    fine[j]   = Σ_i c[i·factor + offset − j] · coarse[i]
//   down  coarse[i] = Σ_q c[q] · fine[i·factor + offset + q]
struct Resampling {
  int factor = 1, taps = 0, offset = 0, scale = 1;
  bool flipped = false;
  int height = 0, width = 0;
};

// What of a source a tile reads.
struct Window {
  int rows = 1, columns = 1, pitch = 1;
  int shift = 0;  // see shift_of
  Divider by_rows;
};

// A launch: which pass, how it is cut into tiles, and where in scratch memory what lies. The tiles
// are multiples of 4 pixels, so that all meet the inserted zeros alike ("shift").
struct Plan {
  Resampling a, b, down;  // b.taps = 0: no slopes
  Window read_a, read_b;
  int tile_rows, tile_columns, tiles_down, tiles_across;
  int fine_rows, fine_columns, pitch;
  int at_taps_b, at_taps_down, at_wide_a, at_wide_b, at_made, at_fine, scratch;
  int channels;
  Divider by_tile_rows;
};

// The tap at which a tile's first fine pixel meets the first pixel of a source that it meets at all.
inline int shift_of(const Resampling& how, const Resampling& down) {
  const int from = down.offset - how.offset;  // of the first tile: all are alike
  return ceil_div(from, how.factor) * how.factor - from;
}

// Passes whose numbers are known when compiling.
template <int kUpA, int kTapsA, int kShiftA, int kUpB, int kTapsB, int kShiftB, int kDown,
          int kTapsDown, int kMostColumns = kColumns>
struct Fixed {
  static constexpr bool is_fixed = true;
  static constexpr int columns = kMostColumns;
  static constexpr int up_a = kUpA, taps_a = kTapsA, shift_a = kShiftA;
  static constexpr int up_b = kUpB, taps_b = kTapsB, shift_b = kShiftB;
  static constexpr int down = kDown, taps_down = kTapsDown;
  static_assert(kTapsA % kUpA == 0 && kTapsB % kUpB == 0 && kTapsDown % kDown == 0);

  static bool is_pass(const Plan& plan) {
    return is_way(plan, plan.a, up_a, taps_a, shift_a) && plan.down.factor == down &&
           plan.down.taps == taps_down &&
           (plan.b.taps == 0 || is_way(plan, plan.b, up_b, taps_b, shift_b));
  }

 private:
  static bool is_way(const Plan& plan, const Resampling& how, int up, int taps, int shift) {
    return how.factor == up && how.taps == taps && shift_of(how, plan.down) == shift;
  }
};

// Any other.
struct Free {
  static constexpr bool is_fixed = false;
  static constexpr int columns = kColumns;
  // Those that meet the most pixels.
  static constexpr int up_a = 1, up_b = 1, taps_a = kMostTaps, taps_b = kMostTaps, down = 1;
};

// StyleGAN3's layers: filters of 6 taps per pixel of the coarser grid, a fine grid of twice the
// finer one.
using Same = Fixed<2, 12, 1, 2, 12, 1, 2, 12>;  // the size stays; its gradient is of this kind, too
using Growing = Fixed<4, 24, 2, 4, 24, 2, 2, 12>;
using GrowingBack = Fixed<2, 12, 0, 4, 24, 3, 4, 24, 2 * kColumns>;  // few pixels are wide

// The leaky ReLU with gain and clamp. NaN stays NaN.
template <typename Math>
struct Activation {
  Math above, below, limit;

  C10_HOST_DEVICE Math value(Math z) const {
    const Math y = z * (z > Math(0) ? above : below);
    return std::abs(y) > limit ? std::copysign(limit, y) : y;
  }

  C10_HOST_DEVICE Math slope(Math z) const {
    const Math factor = z > Math(0) ? above : below;
    return std::abs(z * factor) <= limit ? factor : Math(0);
  }
};

template <typename Math>
Activation<Math> make_activation(double slope, double gain, std::optional<double> clamp) {
  const double limit = clamp ? *clamp : std::numeric_limits<double>::infinity();
  return {static_cast<Math>(gain), static_cast<Math>(gain * slope), static_cast<Math>(limit)};
}

template <typename T>
struct Pointers {
  using Math = at::opmath_type<T>;
  const T* a;
  const T* b;
  const T* bias;
  const Math* filter_a;
  const Math* filter_b;
  const Math* filter_down;
  T* out;
};

// The first pixel that meets fine pixel m of a tile, and the tap at which it does.
C10_HOST_DEVICE constexpr int first_pixel(int m, int up, int shift) {
  return m <= shift ? -((shift - m) / up) : (m - shift + up - 1) / up;
}
C10_HOST_DEVICE constexpr int first_tap(int m, int up, int shift) {
  return shift - m + first_pixel(m, up, shift) * up;
}

template <typename Math>
C10_HOST_DEVICE inline void fetch_taps(int thread, int threads, const Resampling& how,
                                       const Math* filter, Math* to) {
  for (int t = thread; t < how.taps; t += threads) {
    to[t] = filter[how.flipped ? how.taps - 1 - t : t] * Math(how.scale);
  }
}

// The numbers from "least" up to "most", as one comparison.
struct Range {
  int least;
  unsigned count;
  C10_HOST_DEVICE Range(int least, int most)
      : least(least), count(most > least ? most - least : 0) {}
  C10_HOST_DEVICE bool has(int i) const { return static_cast<unsigned>(i - least) < count; }
};

C10_HOST_DEVICE inline int smaller(int a, int b) { return a < b ? a : b; }
C10_HOST_DEVICE inline int larger(int a, int b) { return a < b ? b : a; }

// The pixels of a plane that a tile meets, plus the bias; zeros outside. A warp takes a row, in at
// most kSpan steps; the loads of several rows are under way at once.
template <int kSpan, typename T, typename Math>
C10_HOST_DEVICE inline void fetch(int thread, int threads, const Resampling& how,
                                  const Window& window, int fine_row, int fine_column,
                                  const T* plane, Math bias, Math* stage) {
  constexpr int kRows = kSpan > 3 ? 2 : 4;
  // Whole divisions, by how "shift" is made.
  const int top = (fine_row - how.offset + window.shift) / how.factor;
  const int left = (fine_column - how.offset + window.shift) / how.factor;
  const Range rows(larger(0, -top), smaller(window.rows, how.height - top));
  const Range columns(larger(0, -left), smaller(window.columns, how.width - left));
  const int lane = thread % kLanes, warps = threads / kLanes;
  for (int first = thread / kLanes; first < window.rows; first += kRows * warps) {
    Math got[kRows][kSpan];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int row = first + k * warps;
      const T* from = plane + static_cast<int64_t>(top + row) * how.width + left + lane;
#pragma unroll
      for (int step = 0; step < kSpan; ++step) {
        const bool is_inside = rows.has(row) && columns.has(lane + step * kLanes);
        got[k][step] = is_inside ? static_cast<Math>(from[step * kLanes]) + bias : Math(0);
      }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int row = first + k * warps;
      Math* to = stage + row * window.pitch + lane;
#pragma unroll
      for (int step = 0; step < kSpan; ++step) {
        if (row < window.rows && lane + step * kLanes < window.columns) {
          to[step * kLanes] = got[k][step];
        }
      }
    }
  }
}

// Steps of a warp over a row of pixels that meet the widest tile.
C10_HOST_DEVICE constexpr int span_of(int columns, int up, int taps) {
  return (columns / up + taps / up + 1 + kLanes - 1) / kLanes;
}

// Upsamples along rows. Neighbouring threads take neighbouring rows: with odd pitches they meet
// different banks of shared memory.
template <int kUp, int kTaps, int kShift, typename Math>
C10_HOST_DEVICE inline void widen(int thread, int threads, const Window& window, int strips,
                                  int pitch, const Math* given, const Math* stage, Math* wide) {
  constexpr int kRead = first_pixel(kStrip - 1, kUp, kShift) + kTaps / kUp;
  Math taps[kTaps];
#pragma unroll
  for (int t = 0; t < kTaps; ++t) taps[t] = given[t];
  for (int i = thread; i < window.rows * strips; i += threads) {
    const int strip = window.by_rows.quotient(i), row = i - strip * window.rows;
    const Math* from = stage + row * window.pitch + strip * (kStrip / kUp);
    Math* to = wide + row * pitch + strip * kStrip;
    Math in[kRead];
#pragma unroll
    for (int n = 0; n < kRead; ++n) in[n] = from[n];
#pragma unroll
    for (int m = 0; m < kStrip; ++m) {
      Math sum = 0;
#pragma unroll
      for (int k = 0; k < kTaps / kUp; ++k) {
        sum += taps[first_tap(m, kUp, kShift) + k * kUp] * in[first_pixel(m, kUp, kShift) + k];
      }
      to[m] = sum;
    }
  }
}

// Fine pixel m of a row or column of samples that lie "step" apart.
template <typename Math>
C10_HOST_DEVICE inline Math raise(int m, const Resampling& how, int shift, const Math* taps,
                                  const Math* from, int step) {
  const int first = first_pixel(m, how.factor, shift);
  Math sum = 0;
  for (int t = first_tap(m, how.factor, shift), n = first; t < how.taps; t += how.factor, ++n) {
    sum += taps[t] * from[n * step];
  }
  return sum;
}

template <typename Math>
C10_HOST_DEVICE inline void widen_any(int thread, int threads, const Resampling& how,
                                      const Window& window, int columns, int pitch,
                                      const Math* taps, const Math* stage, Math* wide) {
  for (int i = thread; i < window.rows * columns; i += threads) {
    const int m = window.by_rows.quotient(i), row = i - m * window.rows;
    wide[row * pitch + m] = raise(m, how, window.shift, taps, stage + row * window.pitch, 1);
  }
}

// A source's pixels of one column that the fine pixel at hand meets, and the taps, in registers.
template <int kUp, int kTaps, int kShift, typename Math>
struct Sliding {
  static constexpr int kCount = kTaps / kUp;
  Math taps[kTaps], seen[kCount];
  const Math* next;

  // As for the fine pixel before the first.
  C10_HOST_DEVICE Sliding(const Math* given, const Math* column, int pitch) : next(column) {
    constexpr int kFirst = first_pixel(-1, kUp, kShift);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) taps[t] = given[t];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      seen[k] = kFirst + k < 0 ? Math(0) : column[(kFirst + k) * pitch];
    }
    next += (kFirst + kCount) * pitch;
  }

  // The next fine pixel, m of a group that is a multiple of kUp.
  C10_HOST_DEVICE Math advance(int m, int pitch) {
    if ((m + 4 * kUp - kShift - 1) % kUp == 0) {
#pragma unroll
      for (int k = 0; k + 1 < kCount; ++k) seen[k] = seen[k + 1];
      seen[kCount - 1] = *next;
      next += pitch;
    }
    Math sum = 0;
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum += taps[first_tap(m, kUp, kShift) + k * kUp] * seen[k];
    return sum;
  }
};

// Goes down the columns of the fine grid: wide → made.
template <typename Kind, bool kSloped, typename Math>
C10_HOST_DEVICE inline void walk(int thread, int threads, const Plan& plan,
                                 const Activation<Math>& act, const Math* scratch, Math* made) {
  using A = Sliding<Kind::up_a, Kind::taps_a, Kind::shift_a, Math>;
  using B = Sliding<Kind::up_b, Kind::taps_b, Kind::shift_b, Math>;
  constexpr int kDown = Kind::down, kSums = Kind::taps_down / kDown;
  constexpr int kUps = Kind::up_a > Kind::up_b ? Kind::up_a : Kind::up_b;
  constexpr int kGroup = kUps > kDown ? kUps : kDown;  // powers of two
  Math taps[Kind::taps_down];
#pragma unroll
  for (int t = 0; t < Kind::taps_down; ++t) taps[t] = scratch[plan.at_taps_down + t];
  const int pitch = plan.pitch;
  for (int column = thread; column < plan.fine_columns; column += threads) {
    A a(scratch, scratch + plan.at_wide_a + column, pitch);
    B b(scratch + (kSloped ? plan.at_taps_b : 0),
        scratch + (kSloped ? plan.at_wide_b : plan.at_wide_a) + column, pitch);
    Math sums[kSums];  // of the rows of the result that are not done, the oldest first
#pragma unroll
    for (int k = 0; k < kSums; ++k) sums[k] = 0;
    int at = column - (kSums - 1) * pitch;  // the first sums miss rows above the tile
#pragma unroll kSums
    for (int row = 0; row < plan.fine_rows; row += kGroup) {
#pragma unroll
      for (int m = 0; m < kGroup; ++m) {
        Math fine = a.advance(m, pitch);
        if constexpr (kSloped) {
          fine *= act.slope(b.advance(m, pitch));
        } else {
          fine = act.value(fine);
        }
#pragma unroll
        for (int k = 0; k < kSums; ++k) {
          sums[k] += taps[(kSums - 1 - k) * kDown + m % kDown] * fine;
        }
        if ((m + 1) % kDown == 0) {
          if (at >= 0) made[at] = sums[0];
          at += pitch;
#pragma unroll
          for (int k = 0; k + 1 < kSums; ++k) sums[k] = sums[k + 1];
          sums[kSums - 1] = 0;
        }
      }
    }
  }
}

template <bool kSloped, typename Math>
C10_HOST_DEVICE inline void walk_any(int thread, int threads, const Plan& plan,
                                     const Activation<Math>& act, Math* scratch, Math* made) {
  const int pitch = plan.pitch;
  const Math* taps = scratch + plan.at_taps_down;
  for (int column = thread; column < plan.fine_columns; column += threads) {
    Math* fine = scratch + plan.at_fine + column;
    for (int m = 0; m < plan.fine_rows; ++m) {
      const Math a = raise(m, plan.a, plan.read_a.shift, scratch,
                           scratch + plan.at_wide_a + column, pitch);
      if constexpr (kSloped) {
        const Math b = raise(m, plan.b, plan.read_b.shift, scratch + plan.at_taps_b,
                             scratch + plan.at_wide_b + column, pitch);
        fine[m * pitch] = a * act.slope(b);
      } else {
        fine[m * pitch] = act.value(a);
      }
    }
    for (int row = 0; row < plan.tile_rows; ++row) {
      Math sum = 0;
      for (int t = 0; t < plan.down.taps; ++t) {
        sum += taps[t] * fine[(row * plan.down.factor + t) * pitch];
      }
      made[row * pitch + column] = sum;
    }
  }
}

// Downsamples along rows.
template <int kDown, int kTaps, typename Math>
C10_HOST_DEVICE inline void narrow(int thread, int threads, const Plan& plan, const Math* given,
                                   const Math* made, Math* tile) {
  constexpr int kRead = (kStripOut - 1) * kDown + kTaps;
  Math taps[kTaps];
#pragma unroll
  for (int t = 0; t < kTaps; ++t) taps[t] = given[t];
  const int count = plan.tile_rows * (plan.tile_columns / kStripOut);
  for (int i = thread; i < count; i += threads) {
    const int strip = plan.by_tile_rows.quotient(i), row = i - strip * plan.tile_rows;
    const Math* from = made + row * plan.pitch + strip * (kStripOut * kDown);
    Math* to = tile + row * (plan.tile_columns | 1) + strip * kStripOut;
    Math in[kRead];
#pragma unroll
    for (int n = 0; n < kRead; ++n) in[n] = from[n];
#pragma unroll
    for (int o = 0; o < kStripOut; ++o) {
      Math sum = 0;
#pragma unroll
      for (int t = 0; t < kTaps; ++t) sum += taps[t] * in[o * kDown + t];
      to[o] = sum;
    }
  }
}

template <typename Math>
C10_HOST_DEVICE inline void narrow_any(int thread, int threads, const Plan& plan, const Math* taps,
                                       const Math* made, Math* tile) {
  for (int i = thread; i < plan.tile_rows * plan.tile_columns; i += threads) {
    const int column = plan.by_tile_rows.quotient(i), row = i - column * plan.tile_rows;
    const Math* from = made + row * plan.pitch + column * plan.down.factor;
    Math sum = 0;
    for (int t = 0; t < plan.down.taps; ++t) sum += taps[t] * from[t];
    tile[row * (plan.tile_columns | 1) + column] = sum;
  }
}

template <int kSpan, typename T, typename Math>
C10_HOST_DEVICE inline void store(int thread, int threads, const Plan& plan, int top, int left,
                                  const Math* tile, T* plane) {
  const int rows = smaller(plan.tile_rows, plan.down.height - top);
  const int columns = smaller(plan.tile_columns, plan.down.width - left);
  const int lane = thread % kLanes;
#pragma unroll 4
  for (int row = thread / kLanes; row < rows; row += threads / kLanes) {
    const Math* from = tile + row * (plan.tile_columns | 1) + lane;
    T* to = plane + static_cast<int64_t>(top + row) * plan.down.width + left + lane;
#pragma unroll
    for (int step = 0; step < kSpan; ++step) {
      if (lane + step * kLanes < columns) {
        to[step * kLanes] = static_cast<T>(from[step * kLanes]);
      }
    }
  }
}

// What one thread does in one phase of one tile of one plane. Phases 2 and 3 are for slopes.
template <int kPhase, typename Kind, bool kSloped, typename T>
C10_HOST_DEVICE inline void phase(int thread, int threads, const Plan& plan,
                                  const Activation<at::opmath_type<T>>& act, const Pointers<T>& p,
                                  int64_t plane, int tile, at::opmath_type<T>* scratch) {
  using Math = at::opmath_type<T>;
  const int top = tile / plan.tiles_across * plan.tile_rows;
  const int left = tile % plan.tiles_across * plan.tile_columns;
  const int fine_row = top * plan.down.factor + plan.down.offset;
  const int fine_column = left * plan.down.factor + plan.down.offset;
  Math* wide_a = scratch + plan.at_wide_a;
  Math* stage_a = scratch + plan.at_wide_b;
  Math* made = scratch + plan.at_made;
  Math* stage_b = made;
  const auto bias = [&] { return static_cast<Math>(p.bias[plane % plan.channels]); };
  if constexpr (kPhase == 0) {
    fetch_taps(thread, threads, plan.a, p.filter_a, scratch);
    if constexpr (kSloped) {
      fetch_taps(thread, threads, plan.b, p.filter_b, scratch + plan.at_taps_b);
    }
    fetch_taps(thread, threads, plan.down, p.filter_down, scratch + plan.at_taps_down);
    const T* from = p.a + plane * plan.a.height * plan.a.width;
    fetch<span_of(Kind::columns, Kind::up_a, Kind::taps_a)>(thread, threads, plan.a, plan.read_a, fine_row,
                                             fine_column, from, kSloped ? Math(0) : bias(),
                                             stage_a);
  } else if constexpr (kPhase == 1) {
    if constexpr (Kind::is_fixed) {
      widen<Kind::up_a, Kind::taps_a, Kind::shift_a>(thread, threads, plan.read_a,
                                                     plan.fine_columns / kStrip, plan.pitch,
                                                     scratch, stage_a, wide_a);
    } else {
      widen_any(thread, threads, plan.a, plan.read_a, plan.fine_columns, plan.pitch, scratch,
                stage_a, wide_a);
    }
  } else if constexpr (kPhase == 2) {
    const T* from = p.b + plane * plan.b.height * plan.b.width;
    fetch<span_of(Kind::columns, Kind::up_b, Kind::taps_b)>(thread, threads, plan.b, plan.read_b, fine_row,
                                             fine_column, from, bias(), stage_b);
  } else if constexpr (kPhase == 3) {
    const Math* taps = scratch + plan.at_taps_b;
    Math* wide_b = scratch + plan.at_wide_b;
    if constexpr (Kind::is_fixed) {
      widen<Kind::up_b, Kind::taps_b, Kind::shift_b>(thread, threads, plan.read_b,
                                                     plan.fine_columns / kStrip, plan.pitch, taps,
                                                     stage_b, wide_b);
    } else {
      widen_any(thread, threads, plan.b, plan.read_b, plan.fine_columns, plan.pitch, taps,
                stage_b, wide_b);
    }
  } else if constexpr (kPhase == 4) {
    if constexpr (Kind::is_fixed) {
      walk<Kind, kSloped>(thread, threads, plan, act, scratch, made);
    } else {
      walk_any<kSloped>(thread, threads, plan, act, scratch, made);
    }
  } else if constexpr (kPhase == 5) {
    const Math* taps = scratch + plan.at_taps_down;
    if constexpr (Kind::is_fixed) {
      narrow<Kind::down, Kind::taps_down>(thread, threads, plan, taps, made, wide_a);
    } else {
      narrow_any(thread, threads, plan, taps, made, wide_a);
    }
  } else {
    T* to = p.out + plane * plan.down.height * plan.down.width;
    store<(Kind::columns / Kind::down + kLanes - 1) / kLanes>(thread, threads, plan, top, left, wide_a,
                                                             to);
  }
}

constexpr bool has_phase(int number, bool sloped) { return sloped || (number != 2 && number != 3); }

// Lays out the scratch memory of tiles of a size.
inline void lay_out(Plan& plan, bool is_fixed) {
  const auto read = [&](const Resampling& how) {
    Window window;
    window.shift = shift_of(how, plan.down);
    const auto count = [&](int fine) {
      return std::max(1, floor_div(how.taps + fine - 2 - window.shift, how.factor) + 1);
    };
    window.rows = count(plan.fine_rows);
    window.columns = count(plan.fine_columns);
    window.pitch = window.columns | 1;
    window.by_rows = Divider(window.rows);
    return window;
  };
  const auto span = [&](int tile) { return (tile - 1) * plan.down.factor + plan.down.taps; };
  plan.fine_rows = round_up(span(plan.tile_rows), 4);
  plan.fine_columns = round_up(span(plan.tile_columns), kStrip);
  plan.pitch = plan.fine_columns + 1;
  plan.read_a = read(plan.a);
  plan.read_b = plan.b.taps > 0 ? read(plan.b) : Window();
  // The walk puts out the rows that rounding up adds, too.
  const int made = is_fixed ? (plan.fine_rows - plan.down.taps) / plan.down.factor + 1
                            : plan.tile_rows;
  const auto area = [](const Window& window) { return window.rows * window.pitch; };
  plan.at_taps_b = plan.a.taps;
  plan.at_taps_down = plan.at_taps_b + plan.b.taps;
  plan.at_wide_a = plan.at_taps_down + plan.down.taps;
  // The finished tile lies where wide_a lay; what is read of a lies where wide_b, if any, and made
  // will; what is read of b where made will.
  plan.at_wide_b = plan.at_wide_a + std::max(plan.read_a.rows * plan.pitch,
                                             plan.tile_rows * (plan.tile_columns | 1));
  plan.at_made = plan.at_wide_b + (plan.b.taps > 0 ? plan.read_b.rows * plan.pitch : 0);
  plan.at_fine = std::max(plan.at_wide_b + area(plan.read_a),
                          plan.at_made + std::max(area(plan.read_b), made * plan.pitch));
  plan.scratch = plan.at_fine + (is_fixed ? 0 : plan.fine_rows * plan.pitch);
  plan.by_tile_rows = Divider(plan.tile_rows);
}

// Cuts a side into tiles of at most "most" pixels, as equal as multiples of 4 can be.
inline int cut(int side, int most, int& tiles) {
  const int tile = round_up(ceil_div(side, ceil_div(side, most)), 4);
  tiles = ceil_div(side, tile);
  return tile;
}

// Chooses the tiles that make the fewest fine pixels and fit scratch memory of "most" numbers; says
// whether there are any.
inline bool choose_tiles(Plan& plan, bool is_fixed, int most_columns, int most) {
  const int span = most_columns - plan.down.taps;
  for (int columns = std::max(4, (span / plan.down.factor + 1) / 4 * 4); columns > 0;
       columns -= 4) {
    plan.tile_columns = cut(plan.down.width, columns, plan.tiles_across);
    int best = 0, least = std::numeric_limits<int>::max();
    for (int rows = kMostRows; rows >= (columns > 4 ? kFewRows : 4); rows -= 4) {
      plan.tile_rows = cut(plan.down.height, rows, plan.tiles_down);
      lay_out(plan, is_fixed);
      const int made = plan.fine_rows * plan.tiles_down;
      if (plan.scratch > most || made > least) continue;
      best = plan.tile_rows;
      least = made;
    }
    if (best == 0) continue;  // narrower ones take less
    plan.tile_rows = cut(plan.down.height, best, plan.tiles_down);
    lay_out(plan, is_fixed);
    return true;
  }
  return false;
}

}  // namespace filtered
}  // namespace ganc
