// The operators of one device, over its own run<Kind, kSloped, T>. Included inside a namespace that
// has it.

struct Axes {
  int64_t up, down, pad0, pad1;
};

inline int64_t fine_side(int64_t side, const Axes& axes, int64_t taps) {
  return side * axes.up + axes.pad0 + axes.pad1 - taps + 1;
}

inline void check(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& up_filter,
                  const at::Tensor& down_filter, const Axes& axes) {
  TORCH_CHECK(x.dim() == 4, "filtered_lrelu: x must be [N, C, H, W]");
  TORCH_CHECK(bias.dim() == 1 && bias.size(0) == x.size(1) &&
                  bias.scalar_type() == x.scalar_type() && bias.device() == x.device(),
              "filtered_lrelu: bias must be of x's type and device, one number per channel");
  for (const at::Tensor& filter : {up_filter, down_filter}) {
    TORCH_CHECK(filter.dim() == 1 && filter.size(0) > 0 && filter.size(0) <= kMostTaps &&
                    filter.device() == x.device(),
                "filtered_lrelu: a filter must be [1 … ", kMostTaps, "], on x's device");
  }
  for (const int64_t factor : {axes.up, axes.down}) {
    TORCH_CHECK(factor == 1 || factor == 2 || factor == 4,
                "filtered_lrelu: factors must be 1, 2 or 4, got ", factor);
  }
  constexpr int64_t kMostSide = int64_t(1) << 28;
  for (const int64_t side : {x.size(2), x.size(3)}) {
    const int64_t fine = fine_side(side, axes, up_filter.size(0));
    TORCH_CHECK(fine >= down_filter.size(0) && fine < kMostSide && side < kMostSide &&
                    std::max(std::abs(axes.pad0), std::abs(axes.pad1)) < kMostSide,
                "filtered_lrelu: a side of ", side, " is too short for the filters, or too long");
  }
}

inline int64_t out_side(int64_t side, const Axes& axes, int64_t up_taps, int64_t down_taps) {
  return (fine_side(side, axes, up_taps) - down_taps) / axes.down + 1;
}

inline at::MemoryFormat format_of(const at::Tensor& x) {
  const bool is_last = !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
  return is_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

// Chooses how a pass is computed, and runs it.
template <bool kSloped, typename T>
void choose(Plan plan, const Activation<at::opmath_type<T>>& act, const Pointers<T>& pointers,
            int64_t planes) {
  const auto try_kind = [&](auto kind) {
    using Kind = decltype(kind);
    if constexpr (Kind::is_fixed) {
      if (!Kind::is_pass(plan)) return false;
    }
    for (const int64_t bytes : scratch_bytes(Kind::columns)) {
      const int64_t numbers = bytes / int64_t(sizeof(at::opmath_type<T>));
      if (choose_tiles(plan, Kind::is_fixed, Kind::columns, static_cast<int>(numbers))) {
        run<Kind, kSloped, T>(plan, act, pointers, planes);
        return true;
      }
    }
    return false;
  };
  if constexpr (kHasFixed<T>) {
    if (try_kind(Same()) || try_kind(Growing())) return;
    if constexpr (kSloped) {
      if (try_kind(GrowingBack())) return;
    }
  }
  TORCH_CHECK(try_kind(Free()), "filtered_lrelu: the filters are too long for this device");
}

// What the operators share: what they get, and the four ways between the grids.
struct Call {
  const at::Tensor& x;
  const at::Tensor& bias;
  const at::Tensor& up_filter;
  const at::Tensor& down_filter;
  Axes axes;
  double slope, gain;
  std::optional<double> clamp;

  int up_taps() const { return static_cast<int>(up_filter.size(0)); }
  int down_taps() const { return static_cast<int>(down_filter.size(0)); }
  int height() const { return static_cast<int>(x.size(2)); }
  int width() const { return static_cast<int>(x.size(3)); }
  int out(int side) const {
    return static_cast<int>(out_side(side, axes, up_taps(), down_taps()));
  }

  Resampling up() const {
    const int factor = static_cast<int>(axes.up);
    return {factor, up_taps(), static_cast<int>(axes.pad0), factor, true, height(), width()};
  }
  Resampling down() const {
    return {static_cast<int>(axes.down), down_taps(), 0, 1, true, out(height()), out(width())};
  }
  Resampling up_transposed() const {
    Resampling how = up();
    how.offset -= how.taps - 1;
    how.flipped = false;
    return how;
  }
  Resampling down_transposed() const {
    Resampling how = down();
    how.offset = how.taps - 1;
    how.flipped = false;
    return how;
  }
};

// Runs a pass over "a", which lies like the tensor at the coarse end of "way".
template <bool kSloped>
at::Tensor launch(const Call& call, const at::Tensor& a, const Resampling& way,
                  const at::Tensor& filter_a, const Resampling& down,
                  const at::Tensor& filter_down) {
  check(call.x, call.bias, call.up_filter, call.down_filter, call.axes);
  const c10::DeviceGuard guard(call.x.device());
  const int64_t samples = call.x.size(0), channels = call.x.size(1);
  TORCH_CHECK(a.sizes() == at::IntArrayRef({samples, channels, way.height, way.width}) &&
                  a.scalar_type() == call.x.scalar_type() && a.device() == call.x.device(),
              "filtered_lrelu: a gradient must be of x's type and device, and of its tensor's size");
  at::Tensor out = at::empty({samples, channels, down.height, down.width}, a.options());
  const at::Tensor from = a.contiguous(), at_slopes = call.x.contiguous();
  const at::Tensor bias = call.bias.contiguous();
  Plan plan{};
  plan.a = way;
  if (kSloped) plan.b = call.up();
  plan.down = down;
  plan.channels = static_cast<int>(channels);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, call.x.scalar_type(), "filtered_lrelu", [&] {
        using Math = at::opmath_type<scalar_t>;
        const auto ready = [](const at::Tensor& filter) {
          return filter.to(c10::CppTypeToScalarType<Math>::value).contiguous();
        };
        const at::Tensor taps_a = ready(filter_a), taps_b = ready(call.up_filter);
        const at::Tensor taps_down = ready(filter_down);
        const Pointers<scalar_t> pointers{
            from.const_data_ptr<scalar_t>(),  at_slopes.const_data_ptr<scalar_t>(),
            bias.const_data_ptr<scalar_t>(),  taps_a.const_data_ptr<Math>(),
            taps_b.const_data_ptr<Math>(),    taps_down.const_data_ptr<Math>(),
            out.mutable_data_ptr<scalar_t>()};
        const auto act = make_activation<Math>(call.slope, call.gain, call.clamp);
        if (out.numel() > 0) choose<kSloped, scalar_t>(plan, act, pointers, samples * channels);
      });
  return out.contiguous(format_of(call.x));
}

inline at::Tensor filtered_lrelu(const at::Tensor& x, const at::Tensor& bias,
                                 const at::Tensor& up_filter, const at::Tensor& down_filter,
                                 int64_t up, int64_t down, int64_t pad0, int64_t pad1, double slope,
                                 double gain, std::optional<double> clamp) {
  const Call call{x, bias, up_filter, down_filter, {up, down, pad0, pad1}, slope, gain, clamp};
  return launch<false>(call, x, call.up(), up_filter, call.down(), down_filter);
}

inline at::Tensor filtered_lrelu_grad(const at::Tensor& dy, const at::Tensor& x,
                                      const at::Tensor& bias, const at::Tensor& up_filter,
                                      const at::Tensor& down_filter, int64_t up, int64_t down,
                                      int64_t pad0, int64_t pad1, double slope, double gain,
                                      std::optional<double> clamp) {
  const Call call{x, bias, up_filter, down_filter, {up, down, pad0, pad1}, slope, gain, clamp};
  return launch<true>(call, dy, call.down_transposed(), down_filter, call.up_transposed(),
                      up_filter);
}

inline at::Tensor filtered_lrelu_tangent(const at::Tensor& ddx, const at::Tensor& x,
                                         const at::Tensor& bias, const at::Tensor& up_filter,
                                         const at::Tensor& down_filter, int64_t up, int64_t down,
                                         int64_t pad0, int64_t pad1, double slope, double gain,
                                         std::optional<double> clamp) {
  const Call call{x, bias, up_filter, down_filter, {up, down, pad0, pad1}, slope, gain, clamp};
  return launch<true>(call, ddx, call.up(), up_filter, call.down(), down_filter);
}

inline void implement(torch::Library& m) {
  m.impl("filtered_lrelu", &filtered_lrelu);
  m.impl("filtered_lrelu_grad", &filtered_lrelu_grad);
  m.impl("filtered_lrelu_tangent", &filtered_lrelu_tangent);
}
