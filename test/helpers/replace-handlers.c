/* An addon that puts handlers of its own over those of SIGSEGV and SIGBUS, as crash reporters do: loaded by test/signals/replaced.test.ts. Needs no
 * headers of Node: a library with this symbol is a Node-API module. PASS_ON: hands everything to what was there; else swallows it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static struct sigaction saved[2];

#ifdef PASS_ON
static void handle(int number, siginfo_t *info, void *context) {
  struct sigaction *before = &saved[number == SIGBUS];
  if (before->sa_flags & SA_SIGINFO) {
    before->sa_sigaction(number, info, context);
  } else {
    signal(number, SIG_DFL);
  }
}
#else
static void handle(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  (void)context;
  usleep(1000);
}
#endif

__attribute__((visibility("default"))) void *napi_register_module_v1(void *env, void *exports) {
  static const int numbers[] = {SIGSEGV, SIGBUS};
  (void)env;
  for (int i = 0; i < 2; i++) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(numbers[i], &action, &saved[i]);
  }
  return exports;
}
