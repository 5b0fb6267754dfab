/*
 * The floors as a Node-API addon, so that the loop that touches pages is the same JavaScript on both sides. Nothing but conversion of
 * arguments. Memory is handed out as an external ArrayBuffer, which close detaches before the floor unmaps it.
 */
#include <errno.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "floor.h"

enum { MAX_ARGUMENTS = 5 };

static napi_value throw_errno(napi_env env, int error) {
  napi_throw_error(env, "ERR_FLOOR", strerror(-error));
  return NULL;
}

static void arguments(napi_env env, napi_callback_info info, napi_value *out) {
  size_t count = MAX_ARGUMENTS;
  napi_get_cb_info(env, info, &count, out, NULL, NULL);
}

static double number(napi_env env, napi_value value) {
  double result = 0;
  napi_get_value_double(env, value, &result);
  return result;
}

static napi_value from_number(napi_env env, double value) {
  napi_value result = NULL;
  napi_create_double(env, value, &result);
  return result;
}

static napi_value buffer_over(napi_env env, void *base, double len) {
  napi_value result = NULL;
  if (napi_create_external_arraybuffer(env, base, (size_t)len, NULL, NULL, &result) == napi_ok) return result;
  napi_throw_error(env, "ERR_FLOOR", "The runtime refuses an external ArrayBuffer of this length.");
  return NULL;
}

/* The numbers of a Uint32Array; 0 if it is none. */
static size_t order_of(napi_env env, napi_value value, const uint32_t **order) {
  napi_typedarray_type type;
  size_t length = 0;
  void *data = NULL;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, NULL, NULL) != napi_ok || type != napi_uint32_array) return 0;
  *order = data;
  return length;
}

/* sigbusOpen(byteLength, fd, batch, capacity, writable) */
static napi_value sigbus_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  struct floor_sigbus_options options = {
      .len = (size_t)number(env, argv[0]),
      .fd = (int)number(env, argv[1]),
      .batch = (size_t)number(env, argv[2]),
      .capacity = (size_t)number(env, argv[3]),
      .threads = 1,
  };
  napi_get_value_bool(env, argv[4], &options.writable);
  void *base;
  int error = floor_sigbus_open(&options, &base);
  return error == 0 ? buffer_over(env, base, number(env, argv[0])) : throw_errno(env, error);
}

/* mprotectOpen(byteLength, fd) */
static napi_value mprotect_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  void *base;
  int error = floor_mprotect_open((size_t)number(env, argv[0]), (int)number(env, argv[1]), &base);
  return error == 0 ? buffer_over(env, base, number(env, argv[0])) : throw_errno(env, error);
}

/* threadOpen(byteLength) */
static napi_value thread_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  void *base;
  int error = floor_thread_open((size_t)number(env, argv[0]), &base);
  return error == 0 ? buffer_over(env, base, number(env, argv[0])) : throw_errno(env, error);
}

/* mmapOpen(byteLength, fd) */
static napi_value mmap_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  void *base;
  int error = floor_mmap_open((int)number(env, argv[1]), (size_t)number(env, argv[0]), &base);
  return error == 0 ? buffer_over(env, base, number(env, argv[0])) : throw_errno(env, error);
}

static napi_value detach_and(napi_env env, napi_callback_info info, int (*close_floor)(void)) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  napi_detach_arraybuffer(env, argv[0]);
  int result = close_floor();
  if (result < 0) return throw_errno(env, result);
  napi_value undisturbed = NULL;
  napi_get_boolean(env, result == 0, &undisturbed);
  return undisturbed;
}

static napi_value sigbus_close(napi_env env, napi_callback_info info) { return detach_and(env, info, floor_sigbus_close); }

static napi_value mprotect_close(napi_env env, napi_callback_info info) { return detach_and(env, info, floor_mprotect_close); }

static napi_value thread_close(napi_env env, napi_callback_info info) { return detach_and(env, info, floor_thread_close); }

static napi_value mmap_close(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  void *base = NULL;
  size_t len = 0;
  arguments(env, info, argv);
  napi_get_arraybuffer_info(env, argv[0], &base, &len);
  napi_detach_arraybuffer(env, argv[0]);
  return munmap(base, len) == 0 ? NULL : throw_errno(env, -errno);
}

/* drop(buffer): every page is missing again */
static napi_value drop(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  void *base = NULL;
  size_t len = 0;
  arguments(env, info, argv);
  napi_get_arraybuffer_info(env, argv[0], &base, &len);
  return madvise(base, len, MADV_DONTNEED) == 0 ? NULL : throw_errno(env, -errno);
}

/* sigbusScale(byteLength, fd, order, threads, sumOut: Uint32Array): nanoseconds, negative if disturbed */
static napi_value sigbus_scale(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  const uint32_t *order = NULL;
  const uint32_t *sum_out = NULL;
  size_t count = order_of(env, argv[2], &order);
  if (count == 0 || order_of(env, argv[4], &sum_out) == 0) return throw_errno(env, -EINVAL);
  uint64_t ns = 0;
  uint32_t sum = 0;
  int error = floor_sigbus_scale((size_t)number(env, argv[0]), (int)number(env, argv[1]), order, count, (size_t)number(env, argv[3]), &ns, &sum);
  if (error < 0) return throw_errno(env, error);
  memcpy((void *)(uintptr_t)sum_out, &sum, sizeof sum);
  return from_number(env, error == 0 ? (double)ns : -(double)ns);
}

/* touch(buffer, order): the sum, from a loop in C */
static napi_value touch(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  void *base = NULL;
  size_t len = 0;
  const uint32_t *order = NULL;
  napi_get_arraybuffer_info(env, argv[0], &base, &len);
  size_t count = order_of(env, argv[1], &order);
  return from_number(env, (double)floor_touch(base, order, count, floor_page_size()));
}

/* callsOpen(byteLength) */
static napi_value calls_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  int error = floor_calls_open((size_t)number(env, argv[0]));
  return error == 0 ? NULL : throw_errno(env, error);
}

static napi_value call(napi_env env, int (*function)(void)) {
  int error = function();
  return error == 0 ? NULL : throw_errno(env, error);
}

static napi_value calls_close(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_calls_close);
}

static napi_value calls_drop(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_calls_drop);
}

static napi_value calls_copy(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_calls_copy);
}

static napi_value calls_wake(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_calls_wake);
}

/* writesOpen(byteLength, fd) */
static napi_value writes_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  void *base;
  int error = floor_writes_open((size_t)number(env, argv[0]), (int)number(env, argv[1]), &base);
  return error == 0 ? buffer_over(env, base, number(env, argv[0])) : throw_errno(env, error);
}

static napi_value writes_close(napi_env env, napi_callback_info info) { return detach_and(env, info, floor_writes_close); }

static napi_value writes_flush_begin(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_writes_flush_begin);
}

static napi_value count_or_errno(napi_env env, int64_t count) {
  return count < 0 ? throw_errno(env, (int)count) : from_number(env, (double)count);
}

static napi_value writes_flushes(napi_env env, napi_callback_info info) {
  (void)info;
  return count_or_errno(env, floor_writes_flushes());
}

static napi_value writes_flush_end(napi_env env, napi_callback_info info) {
  (void)info;
  return count_or_errno(env, floor_writes_flush_end());
}

/* written(address: bigint, byteLength) */
static napi_value written(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  uint64_t address = 0;
  bool lossless = false;
  napi_get_value_bigint_uint64(env, argv[0], &address, &lossless);
  return count_or_errno(env, floor_written((uintptr_t)address, (size_t)number(env, argv[1])));
}

/* increment(buffer) */
static napi_value increment(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  void *base = NULL;
  size_t len = 0;
  arguments(env, info, argv);
  napi_get_arraybuffer_info(env, argv[0], &base, &len);
  floor_increment(base, len);
  return NULL;
}

/* flush(fd, buffer, unit, stride) */
static napi_value flush(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  void *base = NULL;
  size_t len = 0;
  arguments(env, info, argv);
  napi_get_arraybuffer_info(env, argv[1], &base, &len);
  int error = floor_flush((int)number(env, argv[0]), base, len, (size_t)number(env, argv[2]), (size_t)number(env, argv[3]));
  return error == 0 ? NULL : throw_errno(env, error);
}

/* rewriteOpen(fd, byteLength, capacity) */
static napi_value rewrite_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  int error = floor_rewrite_open((int)number(env, argv[0]), (size_t)number(env, argv[1]), (size_t)number(env, argv[2]));
  return error == 0 ? NULL : throw_errno(env, error);
}

static napi_value rewrite_scan(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_rewrite_scan);
}

static napi_value rewrite_close(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_rewrite_close);
}

/* continueOpen(byteLength) */
static napi_value continue_open(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  void *base;
  int error = floor_continue_open((size_t)number(env, argv[0]), &base);
  return error == 0 ? buffer_over(env, base, number(env, argv[0])) : throw_errno(env, error);
}

static napi_value continue_close(napi_env env, napi_callback_info info) { return detach_and(env, info, floor_continue_close); }

/* continueAll(batch) */
static napi_value continue_all(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  int error = floor_continue_all((size_t)number(env, argv[0]));
  return error == 0 ? NULL : throw_errno(env, error);
}

static napi_value continue_shut(napi_env env, napi_callback_info info) {
  (void)info;
  return call(env, floor_continue_shut);
}

static napi_value thread_cpu_ns(napi_env env, napi_callback_info info) {
  (void)info;
  return from_number(env, (double)floor_thread_cpu_ns());
}

static napi_value page_size(napi_env env, napi_callback_info info) {
  (void)info;
  return from_number(env, (double)floor_page_size());
}

/* cpus(): the numbers of the CPUs that the process had at first */
static napi_value cpus(napi_env env, napi_callback_info info) {
  (void)info;
  int list[64];
  int count = floor_cpus(list, 64);
  napi_value result;
  napi_create_array(env, &result);
  for (int i = 0; i < count; i++) napi_set_element(env, result, (uint32_t)i, from_number(env, list[i]));
  return result;
}

static napi_value pin_thread(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  int error = floor_pin_thread((int)number(env, argv[0]));
  return error == 0 ? NULL : throw_errno(env, error);
}

static napi_value pin_process(napi_env env, napi_callback_info info) {
  napi_value argv[MAX_ARGUMENTS];
  arguments(env, info, argv);
  int error = floor_pin_process((int)number(env, argv[0]));
  return error == 0 ? NULL : throw_errno(env, error);
}

static napi_value watch_cost(napi_env env, napi_callback_info info) {
  napi_value result = NULL;
  (void)info;
  napi_create_double(env, floor_watch_cost(), &result);
  return result;
}

static napi_value unpin_process(napi_env env, napi_callback_info info) {
  (void)info;
  int error = floor_unpin_process();
  return error == 0 ? NULL : throw_errno(env, error);
}

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback function;
  } functions[] = {
      {"sigbusOpen", sigbus_open},     {"sigbusClose", sigbus_close},     {"sigbusScale", sigbus_scale},
      {"mprotectOpen", mprotect_open}, {"mprotectClose", mprotect_close}, {"threadOpen", thread_open},
      {"threadClose", thread_close},   {"mmapOpen", mmap_open},           {"mmapClose", mmap_close},
      {"touch", touch},                {"threadCpuNs", thread_cpu_ns},    {"pageSize", page_size},
      {"cpus", cpus},                  {"pinThread", pin_thread},         {"pinProcess", pin_process},
      {"unpinProcess", unpin_process}, {"drop", drop},                    {"callsOpen", calls_open},
      {"callsClose", calls_close},     {"callsDrop", calls_drop},         {"callsCopy", calls_copy},
      {"callsWake", calls_wake},       {"writesOpen", writes_open},       {"writesClose", writes_close},
      {"writesFlushBegin", writes_flush_begin}, {"writesFlushes", writes_flushes}, {"writesFlushEnd", writes_flush_end},
      {"written", written},            {"increment", increment},          {"flush", flush},
      {"rewriteOpen", rewrite_open},   {"rewriteScan", rewrite_scan},     {"rewriteClose", rewrite_close},
      {"continueOpen", continue_open}, {"continueClose", continue_close}, {"continueAll", continue_all},
      {"continueShut", continue_shut}, {"watchCost", watch_cost},
  };
  floor_affinity_remember();
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function) != napi_ok) return NULL;
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
