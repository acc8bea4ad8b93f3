// What follows the convolution of a style-based layer, on the CPU: one pass over the features
// instead of five, in the memory they are in where they fill it; and the image that grows beside
// them. The plain-torch twins (ganc/ops/modulated_layer.py, ganc/ops/upfirdn2d.py) are the
// references.
//
// A row of an image in channels_last is one run of numbers in which neighbouring pixels lie
// `channels` apart; a plane of NCHW is the same with one channel. Filters are 4x4, made of taps.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

namespace ganc {
namespace {

constexpr int64_t kGrain = 1 << 14;  // numbers that are worth a thread
constexpr int64_t kTaps = 4;
constexpr int64_t kHead = kTaps - 1;    // rows that two neighbouring chunks read
constexpr int64_t kChunk = 4 * kTaps;  // rows of the smallest chunk; more than two heads

constexpr int64_t kLanes = 16;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

inline Vector load(const float* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, const Vector& v) { std::memcpy(p, &v, sizeof v); }

// Taps along an axis, as a correlation has them, brightness times 2: what was enlarged keeps its.
struct Taps {
  std::array<float, kTaps> across;  // rows
  std::array<float, kTaps> along;
};

Taps taps_of(const at::Tensor& kernel) {
  TORCH_CHECK(kernel.dim() == 2 && kernel.size(0) == kTaps && kernel.size(1) == kTaps &&
                  kernel.is_contiguous() && kernel.scalar_type() == at::kFloat,
              "kernel must be a contiguous float32 tensor of 4x4");
  const float* k = kernel.const_data_ptr<float>();
  Taps taps{};
  for (int64_t i = 0; i < kTaps; ++i) {
    for (int64_t j = 0; j < kTaps; ++j) {
      taps.across[kTaps - 1 - i] += 2 * k[i * kTaps + j];
      taps.along[kTaps - 1 - j] += 2 * k[i * kTaps + j];
    }
  }
  for (int64_t i = 0; i < kTaps * kTaps; ++i) {
    const float made = taps.across[kTaps - 1 - i / kTaps] * taps.along[kTaps - 1 - i % kTaps];
    TORCH_CHECK(std::abs(made - 4 * k[i]) < 1e-5f, "kernel must be an outer product of sum 1");
  }
  return taps;
}

struct Rule {
  float alpha, gain, limit;
};

template <typename T>
inline T activate(const Rule& rule, T v) {
  v = (v > 0 ? v : v * rule.alpha) * rule.gain;
  const T limit = T{} + rule.limit;
  v = v > limit ? limit : v;  // NaN stays NaN
  return v < -limit ? -limit : v;
}

// A row as it is.
struct Row {
  const float* from;

  float number(int64_t i) const { return from[i]; }
  Vector vector(int64_t i) const { return load(from + i); }
};

// Four rows whose weighted sum is wanted.
struct Rows {
  std::array<const float*, kTaps> from;
  std::array<float, kTaps> weights;

  float number(int64_t i) const {
    return weights[0] * from[0][i] + weights[1] * from[1][i] + weights[2] * from[2][i] +
           weights[3] * from[3][i];
  }

  Vector vector(int64_t i) const {
    return weights[0] * load(from[0] + i) + weights[1] * load(from[1] + i) +
           weights[2] * load(from[2] + i) + weights[3] * load(from[3] + i);
  }
};

// What comes after the filter; noise of a row, or null.
struct Finish {
  const float* scales;  // of the sample
  const float* bias;
  Rule rule;

  // A row in channels_last. The last vector of a pixel overlaps the one before, so it is computed
  // first: in place its numbers would be taken twice.
  template <typename Source>
  void pixels(float* out, const Source rows, const float* noise, int64_t width,
              int64_t channels) const {
    const Finish local = *this;  // in registers: a store could change what this points to
    for (int64_t w = 0; w < width; ++w) {
      const float n = noise ? noise[w] : 0.0f;
      const int64_t at = w * channels;
      const auto made = [&](int64_t c) {
        return activate<Vector>(local.rule, rows.vector(at + c) * load(local.scales + c) +
                                          (load(local.bias + c) + n));
      };
      if (channels < kLanes) {
        for (int64_t c = 0; c < channels; ++c) {
          out[at + c] = activate<float>(rule, rows.number(at + c) * scales[c] + (bias[c] + n));
        }
        continue;
      }
      const Vector tail = made(channels - kLanes);
      for (int64_t c = 0; c + kLanes < channels; c += kLanes) store(out + at + c, made(c));
      store(out + at + channels - kLanes, tail);
    }
  }

  // A row of one channel.
  template <typename Source>
  void plane(float* out, const Source rows, const float* noise, int64_t width, int64_t c) const {
    const float s = scales[c], b = bias[c];
    int64_t w = 0;
    for (; w + kLanes <= width; w += kLanes) {
      const Vector shift = b + (noise ? load(noise + w) : Vector{});
      store(out + w, activate<Vector>(rule, rows.vector(w) * s + shift));
    }
    for (; w < width; ++w) {
      out[w] = activate<float>(rule, rows.number(w) * s + (b + (noise ? noise[w] : 0.0f)));
    }
  }
};

// Correlates a row of width + 1 pixels, with a zero before and one after: width pixels.
void filter_row(float* out, const float* in, int64_t width, int64_t step, const Taps& taps) {
  const auto& t = taps.along;
  const int64_t last = (width - 1) * step;
  int64_t i = 0;
  for (; i < step; ++i) out[i] = t[1] * in[i] + t[2] * in[i + step] + t[3] * in[i + 2 * step];
  for (; i + kLanes <= last; i += kLanes) {
    store(out + i, t[0] * load(in + i - step) + t[1] * load(in + i) + t[2] * load(in + i + step) +
                       t[3] * load(in + i + 2 * step));
  }
  for (; i < last; ++i) {
    out[i] = t[0] * in[i - step] + t[1] * in[i] + t[2] * in[i + step] + t[3] * in[i + 2 * step];
  }
  for (; i < last + step; ++i) out[i] = t[0] * in[i - step] + t[1] * in[i] + t[2] * in[i + step];
}

// Filters an image of height + 1 rows of width + 1 pixels, in up to `chunks` chunks of rows side by
// side; finish(row of the result, rows) writes it. The result may start where the image does: it is
// smaller, so it stays behind what is still read. Of its own chunk this holds as row y ends before
// row y + 2 of the image starts. The rows around the start of a chunk, which its neighbour would
// overwrite or read too late, are filtered before; further rows are out of reach if the chunk
// starts at row width + 1 or earlier.
template <typename Write>
void filter_image(const float* in, int64_t height, int64_t width, int64_t step, const Taps& taps,
                  int64_t chunks, const Write& write) {
  const int64_t row = width * step;
  if (height > width + 1) chunks = 1;
  const int64_t rows_each = std::max((height + chunks - 1) / chunks, kChunk);
  chunks = (height + rows_each - 1) / rows_each;
  const std::vector<float> zeros(row);
  std::vector<float> heads(chunks * kHead * row);
  const auto head = [&](int64_t chunk, int64_t y) {
    return heads.data() + (chunk * kHead + y - (chunk * rows_each - 1)) * row;
  };
  const auto filtered = [&](float* out, int64_t y) {
    filter_row(out, in + y * (row + step), width, step, taps);
  };
  at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t end) {
    for (int64_t chunk = first; chunk < end; ++chunk) {
      const int64_t start = chunk * rows_each;
      for (int64_t y = std::max<int64_t>(start - 1, 0); y < std::min(start + 2, height + 1); ++y) {
        filtered(head(chunk, y), y);
      }
    }
  });
  at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t end) {
    std::vector<float> ring(kTaps * row);
    for (int64_t chunk = first; chunk < end; ++chunk) {
      const int64_t start = chunk * rows_each;
      const int64_t stop = std::min(start + rows_each, height);
      const auto get = [&](int64_t y) -> const float* {
        if (y < 0 || y > height) return zeros.data();
        if (y < start + 2) return head(chunk, y);
        if (chunk + 1 < chunks && y > stop - 2) return head(chunk + 1, y);
        return ring.data() + y % kTaps * row;
      };
      for (int64_t y = start; y < stop; ++y) {
        float* next = const_cast<float*>(get(y + 2));
        if (next == ring.data() + (y + 2) % kTaps * row) filtered(next, y + 2);
        write(y, Rows{{get(y - 1), get(y), get(y + 1), next}, taps.across});
      }
    }
  });
}

bool is_channels_last(const at::Tensor& x) {
  return !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
}

void check_float(const at::Tensor& x, const char* name) {
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.device().is_cpu(), name,
              " must be float32 on the CPU");
}

// out = clamp(lrelu(filtered x * scales + noise + bias) * gain). x: [N, C, H, W], or one more row
// and column where it is filtered; out: [N, C, H, W] in the same layout, which may be the memory of
// x: x itself, or, of one sample in channels_last, a smaller image that starts where x does.
void finish_layer(const at::Tensor& x, at::Tensor& out, const std::optional<at::Tensor>& kernel,
                  const at::Tensor& scales, const std::optional<at::Tensor>& noise,
                  const at::Tensor& bias, double alpha, double gain, std::optional<double> clamp) {
  for (const at::Tensor& t : {x, out, scales, bias}) check_float(t, "every tensor");
  TORCH_CHECK(x.dim() == 4 && out.dim() == 4, "x and out must be [N, C, H, W]");
  if (out.numel() == 0) return;
  const int64_t samples = out.size(0), channels = out.size(1);
  const int64_t height = out.size(2), width = out.size(3), spare = kernel ? 1 : 0;
  const bool is_last = is_channels_last(x);
  TORCH_CHECK(x.size(0) == samples && x.size(1) == channels && x.size(2) == height + spare &&
                  x.size(3) == width + spare && (!kernel || std::min(height, width) > 1),
              "x and out disagree: ", x.sizes(), ", ", out.sizes());
  TORCH_CHECK(is_last ? out.is_contiguous(at::MemoryFormat::ChannelsLast)
                      : x.is_contiguous() && out.is_contiguous(),
              "x and out must both be contiguous or channels_last");
  TORCH_CHECK(scales.is_contiguous() && scales.numel() == samples * channels &&
                  bias.is_contiguous() && bias.numel() == channels,
              "scales must be [N, C] and bias [C], contiguous");
  at::Tensor maps;
  if (noise) {
    check_float(*noise, "noise");
    maps = noise->expand({samples, 1, height, width});
    if (maps.stride(3) != 1 || maps.stride(2) != width) maps = maps.contiguous();
  }
  const Rule rule{static_cast<float>(alpha), static_cast<float>(gain),
                  clamp ? static_cast<float>(*clamp) : std::numeric_limits<float>::infinity()};
  const Taps taps = kernel ? taps_of(*kernel) : Taps{};
  const float* from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t image_in = (height + spare) * (width + spare), image_out = height * width;
  const auto noise_row = [&](int64_t n, int64_t y) -> const float* {
    return noise ? maps.const_data_ptr<float>() + n * maps.stride(0) + y * width : nullptr;
  };
  const auto finish = [&](int64_t n) {
    return Finish{scales.const_data_ptr<float>() + n * channels, bias.const_data_ptr<float>(), rule};
  };

  if (!is_last) {
    const int64_t grain = std::max<int64_t>(1, kGrain / image_out);
    at::parallel_for(0, samples * channels, grain, [&](int64_t first, int64_t end) {
      for (int64_t plane = first; plane < end; ++plane) {
        const int64_t n = plane / channels, c = plane % channels;
        const Finish done = finish(n);
        const auto write = [&](int64_t y, const auto rows) {
          done.plane(to + plane * image_out + y * width, rows, noise_row(n, y), width, c);
        };
        const float* in = from + plane * image_in;
        if (kernel) {
          filter_image(in, height, width, 1, taps, 1, write);
        } else {
          for (int64_t y = 0; y < height; ++y) write(y, Row{in + y * width});
        }
      }
    });
    return;
  }
  const int64_t row = width * channels;
  for (int64_t n = 0; n < samples; ++n) {
    const Finish done = finish(n);
    const auto write = [&](int64_t y, const auto rows) {
      float* there = to + n * image_out * channels + y * row;
      done.pixels(there, rows, noise_row(n, y), width, channels);
    };
    const float* in = from + n * image_in * channels;
    if (kernel) {
      const bool is_small = image_out * channels < kGrain;
      filter_image(in, height, width, channels, taps, is_small ? 1 : at::get_num_threads(), write);
    } else {
      at::parallel_for(0, height, std::max<int64_t>(1, kGrain / row), [&](int64_t y, int64_t end) {
        for (; y < end; ++y) write(y, Row{in + y * row});
      });
    }
  }
}

// image += enlarged small, the size doubled: [N, C, H, W] → [N, C, 2 H, 2 W], both contiguous.
void add_upsampled(at::Tensor& image, const at::Tensor& small, const at::Tensor& kernel) {
  check_float(image, "image");
  check_float(small, "small");
  TORCH_CHECK(image.dim() == 4 && small.dim() == 4 && image.size(0) == small.size(0) &&
                  image.size(1) == small.size(1) && image.size(2) == 2 * small.size(2) &&
                  image.size(3) == 2 * small.size(3),
              "image must be twice as large as small: ", image.sizes(), ", ", small.sizes());
  TORCH_CHECK(image.is_contiguous() && small.is_contiguous(), "images must be contiguous");
  if (image.numel() == 0) return;
  const Taps taps = taps_of(kernel);
  const int64_t height = small.size(2), width = small.size(3);
  const float* from = small.const_data_ptr<float>();
  float* to = image.mutable_data_ptr<float>();
  const int64_t rows = small.numel() / width;  // of all planes
  const std::vector<float> zeros(width);
  at::parallel_for(0, 2 * rows, std::max<int64_t>(1, kGrain / width), [&](int64_t y, int64_t end) {
    std::vector<float> padded(width + 2);
    float* middle = padded.data() + 1;
    for (; y < end; ++y) {
      // Every other tap meets an inserted zero: an even row sees taps 0 and 2, an odd one 1 and 3.
      const int64_t odd = y % 2, at = y / 2, other = at % height + (odd ? 1 : -1);
      const float* here = from + at * width;
      const float* near =
          other < 0 || other >= height ? zeros.data() : here + (odd ? width : -width);
      const float a = taps.across[odd ? 1 : 2], b = taps.across[odd ? 3 : 0];
      for (int64_t i = 0; i < width; ++i) middle[i] = a * here[i] + b * near[i];
      float* out = to + y * 2 * width;
      const auto& t = taps.along;
      for (int64_t w = 0; w < width; ++w) {
        const float* p = middle + w;
        out[2 * w] += t[0] * p[-1] + t[2] * p[0];
        out[2 * w + 1] += t[1] * p[0] + t[3] * p[1];
      }
    }
  });
}

}  // namespace
}  // namespace ganc

TORCH_LIBRARY_FRAGMENT(ganc, m) {
  m.def(
      "finish_layer(Tensor(a!) x, Tensor(b!) out, Tensor? kernel, Tensor scales, Tensor? noise,"
      " Tensor bias, float alpha, float gain, float? clamp) -> ()");
  m.def("add_upsampled(Tensor(a!) image, Tensor small, Tensor kernel) -> ()");
}

TORCH_LIBRARY_IMPL(ganc, CPU, m) {
  m.impl("finish_layer", &ganc::finish_layer);
  m.impl("add_upsampled", &ganc::add_upsampled);
}
