/*
 * What the floors have in common: clocks, the touching loop, CPU affinity and the system calls around a userfaultfd. All of it
 * runs on ordinary threads except floor_die, which is for signal handlers.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"
#include "kernel.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* 5.11 */
#endif

size_t floor_page_size(void) {
  static size_t size;
  if (size == 0) size = (size_t)sysconf(_SC_PAGESIZE);
  return size;
}

noreturn void floor_die(const char *sentence) {
  ssize_t ignored = write(STDERR_FILENO, sentence, strlen(sentence));
  (void)ignored;
  _exit(70);
}

static uint64_t clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t floor_now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

uint64_t floor_thread_cpu_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }

int floor_uffd_open(void *base, size_t len, uint64_t features, uint64_t modes, int *uffd) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0) return -errno;
  struct uffdio_api api = {.api = UFFD_API, .features = features};
  struct uffdio_register reg = {
      .range = {.start = (uintptr_t)base, .len = len},
      .mode = modes,
  };
  if (ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &reg) != 0) {
    int error = -errno;
    close(fd);
    return error;
  }
  *uffd = fd;
  return 0;
}

int floor_scan(int pagemap, uintptr_t from, uintptr_t to, uint64_t flags, struct floor_page_region *regions, size_t max, uintptr_t *next) {
  struct floor_scan arg = {
      .size = sizeof arg,
      .flags = flags,
      .start = from,
      .end = to,
      .vec = (uintptr_t)regions,
      .vec_len = max,
      .inverted = FLOOR_PAGE_ZERO,
      .mask = FLOOR_PAGE_WRITTEN | FLOOR_PAGE_PRESENT | FLOOR_PAGE_ZERO,
      .returned = FLOOR_PAGE_WRITTEN,
  };
  int count = ioctl(pagemap, FLOOR_SCAN, &arg);
  if (count < 0) return -errno;
  *next = arg.walk_end;
  return count;
}

uint32_t floor_touch(const uint8_t *base, const uint32_t *order, size_t count, size_t page_size) {
  const volatile uint8_t *bytes = base;
  uint32_t sum = 0;
  for (size_t i = 0; i < count; i++) sum += bytes[order[i] * page_size];
  return sum;
}

int floor_mmap_open(int fd, size_t len, void **base) {
  void *memory = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return -errno;
  *base = memory;
  return 0;
}

/* --- affinity --- */

static cpu_set_t at_first;

void floor_affinity_remember(void) {
  if (CPU_COUNT(&at_first) == 0) sched_getaffinity(0, sizeof at_first, &at_first);
}

int floor_cpus(int *cpus, int max) {
  int count = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE && count < max; cpu++) {
    if (CPU_ISSET(cpu, &at_first)) cpus[count++] = cpu;
  }
  return count;
}

int floor_pin_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : -errno;
}

/* Threads that end meanwhile are skipped. */
static int pin_all(const cpu_set_t *set) {
  DIR *tasks = opendir("/proc/self/task");
  if (tasks == NULL) return -errno;
  int error = 0;
  for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
    int tid = atoi(entry->d_name);
    if (tid > 0 && sched_setaffinity(tid, sizeof *set, set) != 0 && errno != ESRCH) error = -errno;
  }
  closedir(tasks);
  return error;
}

int floor_pin_process(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return pin_all(&set);
}

int floor_unpin_process(void) { return pin_all(&at_first); }
