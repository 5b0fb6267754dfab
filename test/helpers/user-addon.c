/* An addon as users write them, for test/debuggers: it reads and writes memory that JavaScript gives it, at instructions that have names (user_load_at,
 * user_store_at), so that a debugger can stop there; and it crashes in every way that a program can. */
#include <node_api.h>

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, used, visibility("default")))

#if defined(__x86_64__)
uint64_t user_load(const void *addr);
void user_store(void *addr, uint8_t value);
void user_jump(const void *addr);
__asm__(".text\n"
        ".globl user_load, user_load_at, user_load_after, user_store, user_store_at, user_store_after, user_jump\n"
        ".type user_load, @function\n.type user_store, @function\n.type user_jump, @function\n"
        "user_load:\n  .cfi_startproc\n  movl $0x5eed, %eax\n"
        "user_load_at:\n  movzbl (%rdi), %eax\n"
        "user_load_after:\n  nop\n  ret\n  .cfi_endproc\n.size user_load, . - user_load\n"
        "user_store:\n  .cfi_startproc\n  nop\n"
        "user_store_at:\n  movb %sil, (%rdi)\n"
        "user_store_after:\n  nop\n  ret\n  .cfi_endproc\n.size user_store, . - user_store\n"
        "user_jump:\n  .cfi_startproc\n  sub $8, %rsp\n  .cfi_adjust_cfa_offset 8\n  call *%rdi\n  add $8, %rsp\n  .cfi_adjust_cfa_offset -8\n  ret\n"
        "  .cfi_endproc\n.size user_jump, . - user_jump\n");
#else
KEEP uint64_t user_load(const void *addr) { return *(const volatile uint8_t *)addr; }
KEEP void user_store(void *addr, uint8_t value) { *(volatile uint8_t *)addr = value; }
KEEP void user_jump(const void *addr) { ((void (*)(void))(uintptr_t)addr)(); }
#endif

/* A debugger calls it in the stopped process. */
KEEP uint64_t user_sum(const uint8_t *addr, uint64_t count) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; i++) {
    sum += user_load(addr + i);
  }
  return sum;
}

/* Where a breakpoint is set that every debugger finds at once. */
KEEP void user_ready(const void *addr) { __asm__ volatile("" : : "r"(addr) : "memory"); }

KEEP uint64_t user_overflow(uint64_t depth) {
  volatile uint8_t room[4096];
  room[depth % sizeof room] = (uint8_t)depth;
  return user_overflow(depth + 1) + room[depth % sizeof room];
}

static uint8_t *address(napi_env env, napi_value value) {
  uint64_t number = 0;
  bool lossless = false;
  void *data = NULL;
  if (napi_get_value_bigint_uint64(env, value, &number, &lossless) == napi_ok) {
    return (uint8_t *)(uintptr_t)number;
  }
  napi_get_typedarray_info(env, value, NULL, NULL, &data, NULL, NULL);
  return data;
}

/* (where: typed array or bigint, offset, value) */
static uint8_t *arguments(napi_env env, napi_callback_info info, uint32_t *value) {
  napi_value given[3];
  size_t count = 3;
  double offset = 0;
  napi_get_cb_info(env, info, &count, given, NULL, NULL);
  if (count > 1) {
    napi_get_value_double(env, given[1], &offset);
  }
  *value = 0;
  if (count > 2) {
    napi_get_value_uint32(env, given[2], value);
  }
  return address(env, given[0]) + (intptr_t)offset;
}

static napi_value number(napi_env env, uint64_t value) {
  napi_value out;
  napi_create_double(env, (double)value, &out);
  return out;
}

static napi_value addon_address(napi_env env, napi_callback_info info) {
  uint32_t value;
  napi_value out;
  napi_create_bigint_uint64(env, (uint64_t)(uintptr_t)arguments(env, info, &value), &out);
  return out;
}

static napi_value addon_ready(napi_env env, napi_callback_info info) {
  uint32_t value;
  user_ready(arguments(env, info, &value));
  return NULL;
}

static napi_value addon_load(napi_env env, napi_callback_info info) {
  uint32_t value;
  return number(env, user_load(arguments(env, info, &value)));
}

static napi_value addon_store(napi_env env, napi_callback_info info) {
  uint32_t value;
  uint8_t *addr = arguments(env, info, &value);
  user_store(addr, (uint8_t)value);
  return NULL;
}

static napi_value addon_jump(napi_env env, napi_callback_info info) {
  uint32_t value;
  user_jump(arguments(env, info, &value));
  return NULL;
}

static napi_value addon_overflow(napi_env env, napi_callback_info info) {
  uint32_t value;
  arguments(env, info, &value);
  return number(env, user_overflow(0));
}

static napi_value addon_abort(napi_env env, napi_callback_info info) {
  (void)env, (void)info;
  abort();
}

static napi_value addon_unmap(napi_env env, napi_callback_info info) {
  uint32_t value;
  uint8_t *addr = arguments(env, info, &value);
  return number(env, (uint64_t)munmap(addr, value));
}

static napi_value addon_protect(napi_env env, napi_callback_info info) {
  uint32_t value;
  uint8_t *addr = arguments(env, info, &value);
  return number(env, (uint64_t)mprotect(addr, value, PROT_NONE));
}

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback body;
  } functions[] = {
      {"address", addon_address}, {"ready", addon_ready},       {"load", addon_load},   {"store", addon_store},     {"jump", addon_jump},
      {"abort", addon_abort},     {"overflow", addon_overflow}, {"unmap", addon_unmap}, {"protect", addon_protect},
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].body, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
