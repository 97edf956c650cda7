// A library that torch's AOTIModelContainerRunnerCpu loads, around the update that Inductor wrote.
//
// Inductor puts the update into a container of its own, whose templates take several times as long to compile as the
// update. An update has no constants, and no other versions that would have to be exchanged while it runs. What the
// runner looks up by name is here; functions that it looks up and never calls are `ABSENT`.

#include <array>
#include <memory>
#include <string>

#include <torch/csrc/inductor/aoti_runtime/device_utils.h>
#include <torch/csrc/inductor/aoti_runtime/scalar_to_tensor.h>
#include <torch/csrc/inductor/aoti_runtime/utils.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

namespace torch::aot_inductor {

struct AOTInductorModelKernelsBase {};

#include "kernels.h" // declares the update's kernels

struct AOTInductorModel {
  int32_t device_idx_ = -1; // the CPU has no index
  std::unique_ptr<AOTInductorModelKernelsBase> kernels_ = std::make_unique<AOTInductorModelKernels>();

  // Takes over the handles of its inputs, and gives away those of its outputs.
  void run_impl(AtenTensorHandle* inputs, AtenTensorHandle* outputs, DeviceStreamType, AOTIProxyExecutorHandle);
};

#include "update.h" // defines `run_impl`

} // namespace torch::aot_inductor

using Model = torch::aot_inductor::AOTInductorModel;

static thread_local std::string last_error;

#define ABSENT(name) \
  extern "C" int32_t name() { return 1; }

ABSENT(AOTInductorModelContainerExtractConstantsMap)
ABSENT(AOTInductorModelContainerFreeInactiveConstantBuffer)
ABSENT(AOTInductorModelContainerGetCallSpec)
ABSENT(AOTInductorModelContainerGetConstantDtype)
ABSENT(AOTInductorModelContainerGetConstantName)
ABSENT(AOTInductorModelContainerGetConstantOriginalFQN)
ABSENT(AOTInductorModelContainerGetConstantsBlobSize)
ABSENT(AOTInductorModelContainerRunConstantFolding)
ABSENT(AOTInductorModelContainerSwapConstantBuffer)
ABSENT(AOTInductorModelContainerUpdateConstantBuffer)
ABSENT(AOTInductorModelContainerUpdateConstantBufferFromCpu)
ABSENT(AOTInductorModelContainerUpdateInactiveConstantBuffer)
ABSENT(AOTInductorModelContainerUpdateUserManagedConstantBuffer)
ABSENT(AOTInductorModelUpdateConstantsFromBlob)

extern "C" {

int32_t AOTInductorModelContainerCreateWithDevice(Model** model, size_t, const char*, const char*) {
  *model = new Model();
  return 0;
}

int32_t AOTInductorModelContainerDelete(Model* model) {
  delete model;
  return 0;
}

int32_t AOTInductorModelContainerGetNumConstants(Model*, size_t* number) {
  *number = 0;
  return 0;
}

int32_t AOTInductorModelContainerGetNumOutputs(Model*, size_t* number) {
  *number = OUTPUTS;
  return 0;
}

int32_t AOTInductorGetLastError(const char** text) {
  *text = last_error.c_str();
  return 0;
}

int32_t AOTInductorModelContainerRun(
    Model* model,
    AtenTensorHandle* inputs,
    size_t,
    AtenTensorHandle* outputs,
    size_t,
    void* stream,
    AOTIProxyExecutorHandle proxy_executor) {
  const bool gradients = aoti_torch_grad_mode_is_enabled();
  aoti_torch_grad_mode_set_enabled(false);
  int32_t code = 0;
  try {
    model->run_impl(inputs, outputs, static_cast<torch::aot_inductor::DeviceStreamType>(stream), proxy_executor);
  } catch (const std::exception& error) {
    last_error = error.what();
    code = 1;
  } catch (...) {
    last_error = "an unknown error";
    code = 1;
  }
  aoti_torch_grad_mode_set_enabled(gradients);
  return code;
}

} // extern "C"
