/*
 * An addon that forks without exec: loaded by test/fixtures/forking.ts. child(kind, what, address) makes a child ("fork" by the C library, "clone" past it, "vfork"
 * with the parent's memory), which reads or writes a byte there, or returns from the call ("return"), with 0. A child exits with 98, or 99 where it read a zero. Elsewhere the
 * child's pid is returned. wait(pid): its code, or minus its signal. end(code): _exit.
 */
#define _GNU_SOURCE
#include <node_api.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char stack[65536] __attribute__((aligned(16)));

typedef struct {
  volatile uint8_t *at;
  char what[16];
} task_t;

static int work(void *data) {
  task_t *task = data;
  if (strcmp(task->what, "write") == 0) {
    *task->at = 1;
    return 98;
  }
  return *task->at == 0 ? 99 : 98;
}

static pid_t make(const char *kind, task_t *task) {
  if (strcmp(kind, "vfork") == 0) {
    return clone(work, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, task);
  }
  return strcmp(kind, "clone") == 0 ? (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, 0, 0, 0, 0) : fork();
}

static napi_value number(napi_env env, int64_t value) {
  napi_value out = NULL;
  napi_create_int64(env, value, &out);
  return out;
}

static napi_value child(napi_env env, napi_callback_info info) {
  napi_value args[3];
  size_t count = 3, len;
  char kind[16];
  task_t task;
  uint64_t address = 0;
  bool lossless;
  napi_get_cb_info(env, info, &count, args, NULL, NULL);
  napi_get_value_string_utf8(env, args[0], kind, sizeof kind, &len);
  napi_get_value_string_utf8(env, args[1], task.what, sizeof task.what, &len);
  napi_get_value_bigint_uint64(env, args[2], &address, &lossless);
  task.at = (uint8_t *)(uintptr_t)address;
  pid_t pid = make(kind, &task);
  if (pid == 0) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    alarm(30);
    if (strcmp(task.what, "return") != 0) {
      _exit(work(&task));
    }
  }
  return number(env, pid);
}

static napi_value wait_for(napi_env env, napi_callback_info info) {
  napi_value args[1];
  size_t count = 1;
  int64_t pid = 0;
  int status = 0;
  napi_get_cb_info(env, info, &count, args, NULL, NULL);
  napi_get_value_int64(env, args[0], &pid);
  if (waitpid((pid_t)pid, &status, 0) != pid) {
    return number(env, -1000);
  }
  return number(env, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

static napi_value end(napi_env env, napi_callback_info info) {
  napi_value args[1];
  size_t count = 1;
  int64_t code = 0;
  napi_get_cb_info(env, info, &count, args, NULL, NULL);
  napi_get_value_int64(env, args[0], &code);
  _exit((int)code);
}

NAPI_MODULE_INIT() {
  napi_value function = NULL;
  napi_create_function(env, "child", NAPI_AUTO_LENGTH, child, NULL, &function);
  napi_set_named_property(env, exports, "child", function);
  napi_create_function(env, "wait", NAPI_AUTO_LENGTH, wait_for, NULL, &function);
  napi_set_named_property(env, exports, "wait", function);
  napi_create_function(env, "end", NAPI_AUTO_LENGTH, end, NULL, &function);
  napi_set_named_property(env, exports, "end", function);
  return exports;
}
