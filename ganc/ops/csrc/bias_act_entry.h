// The operators of one device, over its own launch<kOrder> and launch_sums. Included inside a
// namespace that has them.

// Brings a tensor to the memory order in which x is walked.
inline at::Tensor like(const at::Tensor& tensor, const at::Tensor& x) {
  TORCH_CHECK(tensor.sizes() == x.sizes() && tensor.scalar_type() == x.scalar_type(),
              "bias_act: tensors of one call must have one shape and one type");
  if (tensor.strides() == x.strides()) return tensor;
  return at::empty_like(x).copy_(tensor);
}

// x itself where its elements fill their memory, else a contiguous copy (a sliced view).
inline at::Tensor dense(const at::Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : x.contiguous();
}

inline void check(const at::Tensor& x, const std::optional<at::Tensor>& bias, int64_t dim) {
  TORCH_CHECK(dim >= 0 && dim < x.dim(), "bias_act: no dimension ", dim);
  if (!bias) return;
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(dim) && bias->is_contiguous() &&
                  bias->scalar_type() == x.scalar_type() && bias->device() == x.device(),
              "bias_act: bias must be contiguous, of x's type and device, one number per channel");
}

inline at::Tensor bias_act(const at::Tensor& x, const std::optional<at::Tensor>& bias, int64_t dim,
                           c10::string_view act, double alpha, double gain,
                           std::optional<double> clamp) {
  check(x, bias, dim);
  return launch<0>(dense(x), std::nullopt, std::nullopt, bias, dim, act, alpha, gain, clamp);
}

inline at::Tensor bias_act_grad(const at::Tensor& dy, const at::Tensor& ref,
                                const std::optional<at::Tensor>& bias, int64_t dim,
                                c10::string_view act, double alpha, double gain,
                                std::optional<double> clamp) {
  check(ref, bias, dim);
  const at::Tensor walked = dense(ref);
  return launch<1>(like(dy, walked), std::nullopt, walked, bias, dim, act, alpha, gain, clamp);
}

// The derivative, and its sum over every dimension but one: what x and what the bias get.
inline std::tuple<at::Tensor, at::Tensor> bias_act_grads(
    const at::Tensor& dy, const at::Tensor& ref, const std::optional<at::Tensor>& bias, int64_t dim,
    c10::string_view act, double alpha, double gain, std::optional<double> clamp) {
  check(ref, bias, dim);
  const at::Tensor walked = dense(ref);
  return launch_sums(like(dy, walked), walked, bias, dim, act, alpha, gain, clamp);
}

inline at::Tensor bias_act_grad_grad(const at::Tensor& ddx, const at::Tensor& dy,
                                     const at::Tensor& x, const std::optional<at::Tensor>& bias,
                                     int64_t dim, c10::string_view act, double alpha, double gain,
                                     std::optional<double> clamp) {
  check(x, bias, dim);
  const at::Tensor walked = dense(x);
  return launch<2>(like(ddx, walked), like(dy, walked), walked, bias, dim, act, alpha, gain, clamp);
}

inline void implement(torch::Library& m) {
  m.impl("bias_act", &bias_act);
  m.impl("bias_act_grad", &bias_act_grad);
  m.impl("bias_act_grads", &bias_act_grads);
  m.impl("bias_act_grad_grad", &bias_act_grad_grad);
}
