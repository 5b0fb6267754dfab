/*
 * An addon that sends SIGPROF and SIGUSR1 to every thread of the process a thousand times a second, from the moment it is loaded: test/fixtures/flooded.ts. Needs no headers
 * of Node: a library with this symbol is a Node-API module. The handlers do nothing but count.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void ignore(int number) { (void)number; }

static void *flood(void *unused) {
  pid_t self = (pid_t)syscall(SYS_gettid);
  (void)unused;
  for (;;) {
    pid_t threads[64];
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks != NULL) {
      for (struct dirent *entry; (entry = readdir(tasks)) != NULL && count < 64;) {
        pid_t thread = atoi(entry->d_name);
        if (thread > 0 && thread != self) {
          threads[count++] = thread;
        }
      }
      closedir(tasks);
    }
    for (int round = 0; round < 50; round++) { /* then look again who there is */
      for (int i = 0; i < count; i++) {
        syscall(SYS_tgkill, getpid(), threads[i], SIGPROF);
        syscall(SYS_tgkill, getpid(), threads[i], SIGUSR1);
      }
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
  }
  return NULL;
}

__attribute__((visibility("default"))) void *napi_register_module_v1(void *env, void *exports) {
  struct sigaction action = {.sa_handler = ignore, .sa_flags = SA_RESTART};
  pthread_t thread;
  (void)env;
  sigemptyset(&action.sa_mask);
  sigaction(SIGPROF, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  pthread_create(&thread, NULL, flood, NULL);
  return exports;
}
