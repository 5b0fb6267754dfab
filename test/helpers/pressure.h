/*
 * Pressure on the process that includes this: limits of its own, memory that is locked, mappings until the kernel gives no more. Takes no memory, no descriptor that
 * stays and no thread, so that it can be put on and taken off where there are none left. Used by test/helpers/pressure.c and native/test/pressure_test.c.
 */
#ifndef PF_TEST_PRESSURE_H
#define PF_TEST_PRESSURE_H

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* "VmSize", "VmData": bytes. */
static double pressure_status(const char *name) {
  static char text[8192]; /* no allocation */
  int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  close(fd);
  text[len < 0 ? 0 : len] = '\0';
  const char *at = strstr(text, name);
  return at == NULL ? -1 : strtod(at + strlen(name) + 1, NULL) * 1024;
}

static double pressure_limit(int resource, double soft) {
  struct rlimit now;
  if (getrlimit(resource, &now) != 0) {
    return -errno;
  }
  now.rlim_cur = soft < 0 ? now.rlim_max : (rlim_t)soft;
  return setrlimit(resource, &now) == 0 ? 0 : -errno;
}

/* Every other page of it is accessible, so that each is a mapping of its own. */
static char *pressure_many;
static size_t pressure_made;
#define PRESSURE_MOST ((size_t)1 << 20)

/* One call: two mappings less for each. */
static void pressure_give_mappings_back(double count) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size_t)count / 2 < pressure_made ? (size_t)count / 2 : pressure_made;
  if (pages > 0) {
    pressure_made -= pages;
    mprotect(pressure_many + 2 * pressure_made * page, 2 * pages * page, PROT_NONE);
  }
}

static double pressure_fill_mappings(double leave) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (pressure_many == NULL) {
    void *made = mmap(NULL, 2 * PRESSURE_MOST * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) {
      return -errno;
    }
    pressure_many = made;
  }
  while (pressure_made < PRESSURE_MOST && mprotect(pressure_many + 2 * pressure_made * page, page, PROT_READ) == 0) {
    pressure_made++;
  }
  pressure_give_mappings_back(leave);
  return (double)pressure_made;
}

static double pressure_no_mappings(void) {
  int result = pressure_many == NULL ? 0 : munmap(pressure_many, 2 * PRESSURE_MOST * (size_t)sysconf(_SC_PAGESIZE));
  pressure_many = NULL;
  pressure_made = 0;
  return result;
}

/* On with what is left, `a`; off with -1. 0 or more, or -errno. */
static double pressure_apply(const char *what, double a) {
  if (strcmp(what, "as") == 0) { /* a: bytes that are left */
    return pressure_limit(RLIMIT_AS, a < 0 ? a : pressure_status("VmSize") + a);
  }
  if (strcmp(what, "data") == 0) {
    return pressure_limit(RLIMIT_DATA, a < 0 ? a : pressure_status("VmData") + a);
  }
  if (strcmp(what, "nofile") == 0) { /* a: descriptors that are left */
    int next = dup(0); /* the lowest that is free: those below are taken */
    close(next);
    return pressure_limit(RLIMIT_NOFILE, a < 0 ? a : next + a);
  }
  if (strcmp(what, "nproc") == 0) {
    return pressure_limit(RLIMIT_NPROC, a);
  }
  if (strcmp(what, "memlock") == 0) {
    return pressure_limit(RLIMIT_MEMLOCK, a);
  }
  if (strcmp(what, "lock") == 0) {
    return (a < 0 ? munlockall() : mlockall((int)a)) == 0 ? 0 : -errno;
  }
  if (strcmp(what, "maps") == 0) { /* a: mappings that are left */
    return a < 0 ? pressure_no_mappings() : pressure_fill_mappings(a);
  }
  if (strcmp(what, "mappings") == 0) { /* the same, off at once but for most of them, so that they need not all be made again */
    if (a < 0) {
      pressure_give_mappings_back(4096);
    }
    return a < 0 ? 0 : pressure_fill_mappings(a);
  }
  return -EINVAL;
}

#endif
