// A plug-in device of Paddle for tests: a card whose memory only its own functions may touch.
//
// Its memory is on this machine, twice as many addresses as it has bytes. What Paddle gets are addresses of the
// first half, which nobody may read or write: a program that does so ends with a segmentation fault, and Python's
// faulthandler names the line. The bytes are in the second half, at the same distance for all (`bytes_of`).
//
// An operation without a kernel here is computed by Paddle's own kernel of the CPU, between two copies. The sum has
// one, because Paddle adds up gradients without a copy.
// tests/gpu/test_stand_in.py compiles this file; Paddle loads what it finds in the folder CUSTOM_DEVICE_ROOT.

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "paddle/phi/backends/device_ext.h"
#include "paddle/phi/capi/include/c_device_context.h"
#include "paddle/phi/capi/include/c_kernel_registry.h"
#include "paddle/phi/capi/include/c_tensor.h"

namespace {

char name[] = "stand_in";
constexpr size_t SIZE = size_t{1} << 34;  // bytes; the system provides those that are used
constexpr size_t CHUNK = 256;             // what is allocated are multiples of it
char* memory;                             // the closed half
size_t used;                              // bytes from its start on
std::map<size_t, std::vector<void*>> freed;  // by their size
std::mutex lock;                             // of the last two

char* bytes_of(const void* address) { return static_cast<char*>(const_cast<void*>(address)) + SIZE; }

size_t whole_chunks(size_t size) { return (size + CHUNK - 1) / CHUNK * CHUNK; }

C_Status open_device(const C_Device) {
  if (memory) return C_SUCCESS;
  void* start = mmap(nullptr, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return C_FAILED;
  memory = static_cast<char*>(start);
  return mprotect(bytes_of(memory), SIZE, PROT_READ | PROT_WRITE) ? C_FAILED : C_SUCCESS;
}

C_Status allocate(const C_Device, void** address, size_t size) {
  std::lock_guard<std::mutex> guard(lock);
  size = whole_chunks(size);
  auto& same_size = freed[size];
  if (!same_size.empty()) {
    *address = same_size.back();
    same_size.pop_back();
    return C_SUCCESS;
  }
  if (size > SIZE - used) return C_FAILED;
  *address = memory + used;
  used += size;
  return C_SUCCESS;
}

C_Status release(const C_Device, void* address, size_t size) {
  std::lock_guard<std::mutex> guard(lock);
  freed[whole_chunks(size)].push_back(address);
  return C_SUCCESS;
}

C_Status upload(const C_Device, void* to, const void* from, size_t size) {
  memcpy(bytes_of(to), from, size);
  return C_SUCCESS;
}

C_Status download(const C_Device, void* to, const void* from, size_t size) {
  memcpy(to, bytes_of(from), size);
  return C_SUCCESS;
}

C_Status copy(const C_Device, void* to, const void* from, size_t size) {
  memmove(bytes_of(to), bytes_of(from), size);
  return C_SUCCESS;
}

// The same on a stream. There is one, and everything is done at once.
template <C_Status (*now)(const C_Device, void*, const void*, size_t)>
C_Status on_stream(const C_Device device, C_Stream, void* to, const void* from, size_t size) {
  return now(device, to, from, size);
}

C_Status nothing() { return C_SUCCESS; }
C_Status nothing_on(const C_Device) { return C_SUCCESS; }
C_Status with_stream(const C_Device, C_Stream) { return C_SUCCESS; }
C_Status with_event(const C_Device, C_Event) { return C_SUCCESS; }
C_Status with_both(const C_Device, C_Stream, C_Event) { return C_SUCCESS; }

template <typename T>
C_Status give(const C_Device, T* result) {
  *result = nullptr;
  return C_SUCCESS;
}

using Numbers = std::vector<int64_t>;
C_Status status;

Numbers shape_of(const PD_Tensor* x) {
  Numbers shape;
  for (int64_t axis = 0; axis < PD_TensorGetNumDims(x, &status); ++axis)
    shape.push_back(PD_TensorGetDim(x, axis, &status));
  return shape;
}

// Which number of x is at each place of this shape, to which x is broadcast.
Numbers places(const PD_Tensor* x, const Numbers& shape) {
  Numbers own = shape_of(x), result{0};
  own.insert(own.begin(), shape.size() - own.size(), 1);
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    Numbers longer;
    for (int64_t row : result)
      for (int64_t i = 0; i < shape[axis]; ++i) longer.push_back(row * own[axis] + (own[axis] > 1 ? i : 0));
    result.swap(longer);
  }
  return result;
}

template <typename T>
T* numbers_of(const PD_Tensor* x) {
  return reinterpret_cast<T*>(bytes_of(PD_TensorGetDataPointer(x, &status)));
}

// The kernel of x + y; Paddle has set the shape of the sum.
template <typename T>
void add(const PD_DeviceContext* context, const PD_Tensor* x, const PD_Tensor* y, PD_Tensor* sum) {
  const Numbers shape = shape_of(sum), of_x = places(x, shape), of_y = places(y, shape);
  const T *x_numbers = numbers_of<T>(x), *y_numbers = numbers_of<T>(y);
  auto type = PD_TensorGetPDDataType(x, &status);
  auto* result = reinterpret_cast<T*>(bytes_of(PD_DeviceContextAllocateTensor(context, sum, 0, type, &status)));
  for (size_t i = 0; i < of_x.size(); ++i) result[i] = x_numbers[of_x[i]] + y_numbers[of_y[i]];
}

template <typename T>
void register_add(PD_DataType type) {
  PD_KernelArgumentType arguments[] = {PD_ARG_TYPE_CONTEXT, PD_ARG_TYPE_TENSOR, PD_ARG_TYPE_TENSOR};
  PD_RegisterPhiKernel("add", name, type, ALL_LAYOUT, 3, arguments, 0, nullptr, 1, arguments + 1,
                       [](const PD_KernelKey*, PD_Kernel*) {}, nullptr, reinterpret_cast<void*>(add<T>));
}

}  // namespace

extern "C" void InitPlugin(CustomRuntimeParams* plugin) {
  PADDLE_CUSTOM_RUNTIME_CHECK_VERSION(plugin);
  plugin->device_type = plugin->sub_device_type = name;
  C_DeviceInterface& device = *plugin->interface;
  device.initialize = device.finalize = nothing;
  device.get_device_count = [](size_t* count) { return *count = 1, C_SUCCESS; };
  device.get_device_list = [](size_t* numbers) { return *numbers = 0, C_SUCCESS; };
  device.init_device = open_device;
  device.deinit_device = device.set_device = device.synchronize_device = nothing_on;
  device.get_device = [](const C_Device device) { return device->id = 0, C_SUCCESS; };
  device.create_stream = give<C_Stream>;
  device.destroy_stream = device.query_stream = device.synchronize_stream = with_stream;
  device.create_event = give<C_Event>;
  device.destroy_event = device.query_event = device.synchronize_event = with_event;
  device.record_event = device.stream_wait_event = with_both;
  device.device_memory_allocate = allocate;
  device.device_memory_deallocate = release;
  device.memory_copy_h2d = upload;
  device.memory_copy_d2h = download;
  device.memory_copy_d2d = copy;
  device.async_memory_copy_h2d = on_stream<upload>;
  device.async_memory_copy_d2h = on_stream<download>;
  device.async_memory_copy_d2d = on_stream<copy>;
  device.device_min_chunk_size = [](const C_Device, size_t* size) { return *size = CHUNK, C_SUCCESS; };
  device.device_memory_stats = [](const C_Device, size_t* all, size_t* left) {
    return *all = SIZE, *left = SIZE - used, C_SUCCESS;
  };
  register_add<float>(FLOAT32);
  register_add<double>(FLOAT64);
  register_add<phi::dtype::float16>(FLOAT16);
  register_add<phi::dtype::bfloat16>(BFLOAT16);
}
