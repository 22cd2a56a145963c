/* A stand-in for libedgetpu: a TFLite delegate that takes every "edgetpu-custom-op" and doubles its input.
 *
 * What it does wrong is said by files in the folder that FLOCKMQ_STUB_TPU names: "unplugged" (it cannot be opened, and
 * running it aborts the process, as libedgetpu does on a USB error), "failing" (running it is an error), "hanging"
 * (running it never ends). The structures are the runtime's, as far as this file looks into them.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, ERROR = 1 };

typedef struct {
  int size;
  int data[];
} IntArray;

typedef struct Delegate Delegate;

typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  Delegate *delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct {
    int type;
    void *params;
  } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;

typedef struct {
  IntArray *inputs;
  IntArray *outputs;
} Node;

typedef struct Context Context;

typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *async_kernel;
  uint64_t inplace_operator;
} Registration;

struct Context {
  size_t tensors_size;
  int (*GetExecutionPlan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  int (*ResizeTensor)(Context *, Tensor *, IntArray *);
  void (*ReportError)(Context *, const char *, ...);
  int (*AddTensors)(Context *, int, int *);
  int (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
  int (*ReplaceNodeSubsetsWithDelegateKernels)(Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
  void *data;
  int (*Prepare)(Context *, Delegate *);
  void *CopyFromBufferHandle;
  void *CopyToBufferHandle;
  void *FreeBufferHandle;
  int64_t flags;
  void *opaque_delegate_builder;
};

static bool told_to_be(const char *what) {
  char path[4096];
  const char *folder = getenv("FLOCKMQ_STUB_TPU");
  snprintf(path, sizeof path, "%s/%s", folder ? folder : "", what);
  return folder && access(path, F_OK) == 0;
}

static int prepare_kernel(Context *context, Node *node) {
  (void)context, (void)node;
  return OK;
}

static int invoke_kernel(Context *context, Node *node) {
  if (told_to_be("unplugged")) {
    fprintf(stderr, "F driver/usb/usb_driver.cc:1 transfer on tag 2 failed. Abort.\n");
    abort();
  }
  while (told_to_be("hanging")) sleep(1);
  if (told_to_be("failing")) return ERROR;
  const Tensor *from = &context->tensors[node->inputs->data[0]];
  Tensor *to = &context->tensors[node->outputs->data[0]];
  for (size_t i = 0; i < to->bytes / sizeof(float); i++)
    ((float *)to->data)[i] = 2 * ((const float *)from->data)[i];
  return OK;
}

static int prepare_delegate(Context *context, Delegate *delegate) {
  IntArray *plan, *taken;
  if (context->GetExecutionPlan(context, &plan) != OK) return ERROR;
  taken = malloc(sizeof *taken + sizeof(int) * plan->size);
  taken->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *found;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &found) != OK) return ERROR;
    if (found->custom_name && !strcmp(found->custom_name, "edgetpu-custom-op"))
      taken->data[taken->size++] = plan->data[i];
  }
  Registration kernel = {.prepare = prepare_kernel, .invoke = invoke_kernel, .custom_name = "stub", .version = 1};
  int status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, taken, delegate);
  free(taken);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  (void)keys, (void)values, (void)count;
  if (told_to_be("unplugged")) {
    report("no device");
    return NULL;
  }
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->Prepare = prepare_delegate;
  delegate->flags = 1; /* dynamic tensors allowed: else the runtime tries to run the operator itself first */
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
