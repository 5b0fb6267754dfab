/*
 * An addon that puts handlers of its own over those of SIGSEGV and SIGBUS, as crash reporters and other runtimes do: loaded by test/fixtures/replaced.ts. Needs no headers of
 * Node: a library with this symbol is a Node-API module. Compiled several times, with
 *
 *   CHAIN     hands on what it gets to what was there (else it swallows it)
 *   PLAIN     installs by signal(), and so hands on the number only
 *   NO_INFO   installs by sigaction() without SA_SIGINFO
 *   ONCE      SA_RESETHAND
 *   AGAIN     a thread that looks every 10 ms whether its handlers are still there
 *   UNLOADED  the path of another such addon, which it loads, lets put its handlers, and unloads
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

typedef void (*full_t)(int, siginfo_t *, void *);
typedef void (*plain_t)(int);

static const int numbers[] = {SIGSEGV, SIGBUS};
static struct sigaction saved[2];

#define UNUSED __attribute__((unused))

UNUSED static void handle(int number, siginfo_t *info, void *context) {
  struct sigaction *before = &saved[number == SIGBUS];
#ifdef CHAIN
  if (before->sa_flags & SA_SIGINFO) {
    before->sa_sigaction(number, info, context);
  } else if (before->sa_handler == SIG_DFL) {
    signal(number, SIG_DFL);
  } else {
    before->sa_handler(number);
  }
#else
  (void)before, (void)info, (void)context;
  usleep(1000);
#endif
}

UNUSED static void handle_plain(int number) {
#ifdef CHAIN
  if (saved[number == SIGBUS].sa_handler != SIG_DFL) {
    saved[number == SIGBUS].sa_handler(number);
  }
#else
  (void)number;
  usleep(1000);
#endif
}

UNUSED static void put(int i) {
#if defined(PLAIN)
  saved[i].sa_handler = signal(numbers[i], handle_plain);
#elif defined(NO_INFO)
  struct sigaction action = {.sa_handler = handle_plain};
  sigemptyset(&action.sa_mask);
  sigaction(numbers[i], &action, &saved[i]);
#else
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
#ifdef ONCE
  action.sa_flags |= (int)SA_RESETHAND;
#endif
  sigemptyset(&action.sa_mask);
  sigaction(numbers[i], &action, &saved[i]);
#endif
}

#ifdef AGAIN
static void *keep_putting(void *unused) {
  (void)unused;
  for (;;) {
    for (int i = 0; i < 2; i++) {
      struct sigaction now;
      sigaction(numbers[i], NULL, &now);
      if (now.sa_sigaction != handle) {
        put(i);
      }
    }
    usleep(10000);
  }
  return NULL;
}
#endif

__attribute__((visibility("default"))) void *napi_register_module_v1(void *env, void *exports) {
#ifdef UNLOADED
  void *library = dlopen(UNLOADED, RTLD_NOW);
  void *(*init)(void *, void *);
  *(void **)&init = dlsym(library, "napi_register_module_v1");
  init(env, exports);
  dlclose(library);
#else
  (void)env;
  put(0);
  put(1);
#endif
#ifdef AGAIN
  pthread_t thread;
  pthread_create(&thread, NULL, keep_putting, NULL);
#endif
  return exports;
}
