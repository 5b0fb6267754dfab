/*
 * An addon that sends SIGPROF and SIGUSR1 to every thread of the process a thousand times a second, from the moment it
 * is loaded, and counts for each thread what arrived: test/fixtures/flooded.ts.
 *
 * A signal that is sent while the one before still waits for its thread is merged with it by the kernel, so that what
 * arrives depends on how busy the machine is. Therefore what is sent is counted in two: as `sent` where the handler has
 * run since the last time, and as `merged` where it has not. Each that was `sent` must arrive, except the last one; of
 * those `merged` some do, because the handler says that it has run a little after the kernel has taken the signal.
 *
 * The flood's thread is the only one that takes slots and that writes `sent` and `merged`; the handlers find the slot of
 * their thread, which is there before the first signal is, and touch nothing else.
 */
#define _GNU_SOURCE
#include <node_api.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 256 /* more threads than that get no signals */
#define KINDS 2

static const int numbers[KINDS] = {SIGPROF, SIGUSR1};

typedef struct {
  _Atomic pid_t thread; /* 0: free, as all behind it */
  struct {
    _Atomic uint32_t sent, merged, arrived;
    _Atomic bool waits; /* sent, and not seen to arrive */
  } of[KINDS];
} slot_t;

static slot_t slots[SLOTS];

/* NULL: there is none, or no room. */
static slot_t *slot_of(pid_t thread, bool make) {
  for (size_t i = 0; i < SLOTS; i++) {
    pid_t whose = atomic_load(&slots[i].thread);
    if (whose == 0 && make) {
      atomic_store(&slots[i].thread, thread);
      whose = thread;
    }
    if (whose == thread) {
      return &slots[i];
    }
    if (whose == 0) {
      return NULL;
    }
  }
  return NULL;
}

static void count(int number) {
  int before = errno, kind = number == SIGUSR1;
  slot_t *slot = slot_of((pid_t)syscall(SYS_gettid), false);
  if (slot != NULL) { /* one from elsewhere, to a thread that we do not know */
    atomic_fetch_add(&slot->of[kind].arrived, 1);
    atomic_store(&slot->of[kind].waits, false);
  }
  errno = before;
}

static void send_both(slot_t *slot) {
  for (int kind = 0; kind < KINDS; kind++) {
    bool merges = atomic_exchange(&slot->of[kind].waits, true);
    atomic_fetch_add(merges ? &slot->of[kind].merged : &slot->of[kind].sent, 1);
    syscall(SYS_tgkill, getpid(), atomic_load(&slot->thread), numbers[kind]);
  }
}

static void *flood(void *unused) {
  pid_t self = (pid_t)syscall(SYS_gettid);
  (void)unused;
  for (;;) {
    slot_t *there[SLOTS];
    int found = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks != NULL) {
      for (struct dirent *entry; (entry = readdir(tasks)) != NULL && found < SLOTS;) {
        pid_t thread = atoi(entry->d_name);
        slot_t *slot = thread > 0 && thread != self ? slot_of(thread, true) : NULL;
        if (slot != NULL) {
          there[found++] = slot;
        }
      }
      closedir(tasks);
    }
    for (int round = 0; round < 50; round++) { /* then look again who there is */
      for (int i = 0; i < found; i++) {
        send_both(there[i]);
      }
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
  }
  return NULL;
}

/* counts(thread): [sent, merged, arrived] of SIGPROF and then of SIGUSR1, or undefined. */
static napi_value counts(napi_env env, napi_callback_info info) {
  napi_value given, out, number;
  size_t one = 1;
  int32_t thread = 0;
  napi_get_cb_info(env, info, &one, &given, NULL, NULL);
  napi_get_value_int32(env, given, &thread);
  slot_t *slot = slot_of(thread, false);
  if (thread == 0 || slot == NULL) {
    return NULL;
  }
  napi_create_array_with_length(env, 3 * KINDS, &out);
  for (uint32_t i = 0; i < 3 * KINDS; i++) {
    /* What has arrived is read last, so that it is not less than was sent. */
    _Atomic uint32_t *words[] = {&slot->of[i / 3].sent, &slot->of[i / 3].merged, &slot->of[i / 3].arrived};
    napi_create_uint32(env, atomic_load(words[i % 3]), &number);
    napi_set_element(env, out, i, number);
  }
  return out;
}

NAPI_MODULE_INIT() {
  struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
  napi_value function;
  pthread_t thread;
  sigemptyset(&action.sa_mask);
  for (int kind = 0; kind < KINDS; kind++) {
    sigaction(numbers[kind], &action, NULL);
  }
  pthread_create(&thread, NULL, flood, NULL);
  napi_create_function(env, "counts", NAPI_AUTO_LENGTH, counts, NULL, &function);
  napi_set_named_property(env, exports, "counts", function);
  return exports;
}
