/* sanitizers: address,none */
/*
 * PAGEMAP_SCAN: what is present, what was written since a userfaultfd armed it, and what is left of a scan that fails on its way.
 * Not under ThreadSanitizer, whose runtime writes into memory by itself.
 */
#include "mapping.h"
#include "support.h"
#include "uapi.h"

#define PRESENT 8ULL
#define SWAPPED 16ULL
#define WRITTEN 2ULL
#define PFNZERO 32ULL
#define REARM (PF_PM_SCAN_WP_MATCHING | PF_PM_SCAN_CHECK_WPASYNC)

static const pf_pagemap_query_t there = {.anyof = PRESENT | SWAPPED, .report = PRESENT};
static const pf_pagemap_query_t written = {.mask = WRITTEN | PFNZERO, .inverted = PFNZERO, .anyof = PRESENT | SWAPPED, .report = WRITTEN};

static bool supported(int fd) {
  pf_pagemap_region_t region;
  uint64_t walked;
  return pf_pagemap_scan(fd, 0, PAGE, &there, &region, 1, &walked) >= 0;
}

static uint8_t *some_pages(size_t pages) {
  uint8_t *bytes = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(bytes != MAP_FAILED, "memory");
  madvise(bytes, pages * PAGE, MADV_NOHUGEPAGE);
  return bytes;
}

static void resume(pf_backend_t backend) {
  (void)backend;
  int fd = pf_pagemap_open(0);
  must(fd >= 0, "the page map");
  if (!supported(fd)) {
    close(fd);
    return;
  }
  uint8_t *bytes = some_pages(40);
  for (size_t page = 0; page < 40; page += 2) {
    bytes[page * PAGE] = 1;
  }
  uint64_t start = (uint64_t)(uintptr_t)bytes, at = start, end = start + 40 * PAGE, walked = 0;
  int regions = 0;
  while (at < end) {
    pf_pagemap_region_t some[3];
    int found = pf_pagemap_scan(fd, at, end, &there, some, 3, &walked);
    EXPECT(found >= 0 && found <= 3 && walked > at);
    for (int i = 0; i < found; i++, regions++) {
      EXPECT_EQ(some[i].start, start + (uint64_t)regions * 2 * PAGE);
      EXPECT_EQ(some[i].end - some[i].start, PAGE);
      EXPECT_EQ(some[i].categories, PRESENT);
    }
    at = walked;
  }
  EXPECT_EQ(regions, 20);
  pf_pagemap_query_t few = there;
  few.max_pages = 2;
  pf_pagemap_region_t some[8];
  EXPECT_EQ(pf_pagemap_scan(fd, start, end, &few, some, 8, &walked), 2);
  munmap(bytes, 40 * PAGE);
  EXPECT_EQ(pf_pagemap_scan(fd, start, end, &there, some, 8, &walked), 0);
  EXPECT_EQ(walked, end);
  close(fd);
  EXPECT_EQ(pf_pagemap_scan(fd, start, end, &there, some, 8, &walked), -EBADF);
  EXPECT_EQ(pf_pagemap_open(0x3fffffff), -ENOENT);
}

/* A userfaultfd that write-protects asynchronously, or -1. */
static int async_uffd(uint8_t *bytes, size_t len) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | PF_UFFD_USER_MODE_ONLY);
  struct pf_uffdio_api api = {.api = PF_UFFD_API, .features = 1ULL << 15};
  struct pf_uffdio_register range = {.range = {(uintptr_t)bytes, len}, .mode = PF_UFFDIO_REGISTER_MODE_WP};
  struct pf_uffdio_writeprotect arm = {.range = {(uintptr_t)bytes, len}, .mode = PF_UFFDIO_WRITEPROTECT_MODE_WP};
  if (fd >= 0 && ioctl(fd, PF_UFFDIO_API, &api) == 0 && ioctl(fd, PF_UFFDIO_REGISTER, &range) == 0 &&
      ioctl(fd, PF_UFFDIO_WRITEPROTECT, &arm) == 0) {
    return fd;
  }
  close(fd);
  return -1;
}

static void rearm(pf_backend_t backend) {
  (void)backend;
  int fd = pf_pagemap_open(0);
  uint8_t *bytes = some_pages(16);
  memset(bytes, 1, 8 * PAGE);
  int uffd = supported(fd) ? async_uffd(bytes, 12 * PAGE) : -1;
  if (uffd < 0) {
    close(fd);
    return;
  }
  pf_pagemap_query_t query = written;
  query.flags = REARM;
  pf_pagemap_region_t some[8];
  uint64_t start = (uint64_t)(uintptr_t)bytes, walked;
  EXPECT_EQ(pf_pagemap_scan(fd, start, start + 12 * PAGE, &query, some, 8, &walked), 0);
  bytes[3 * PAGE] = bytes[4 * PAGE] = bytes[9 * PAGE] = 2;
  EXPECT_EQ(pf_pagemap_scan(fd, start, start + 12 * PAGE, &query, some, 8, &walked), 2);
  EXPECT_EQ(some[0].start, start + 3 * PAGE);
  EXPECT_EQ(some[0].end, start + 5 * PAGE);
  EXPECT_EQ(some[1].start, start + 9 * PAGE);
  EXPECT_EQ(pf_pagemap_scan(fd, start, start + 12 * PAGE, &query, some, 8, &walked), 0);
  /* The last four pages are not registered: the scan fails there, and what it found and armed before is told. */
  bytes[6 * PAGE] = 3;
  EXPECT_EQ(pf_pagemap_scan(fd, start, start + 16 * PAGE, &query, some, 8, &walked), -EPERM);
  EXPECT_EQ(some[0].start, start + 6 * PAGE);
  EXPECT_EQ(some[0].end, start + 7 * PAGE);
  EXPECT_EQ(some[1].end, 0);
  munmap(bytes, 16 * PAGE);
  close(uffd);
  close(fd);
}

int main(void) {
  run_one("a scan goes on where its room ended", "", resume, PF_BACKEND_SIGNAL);
  run_one("what was written is told once, even by a scan that fails on its way", "", rearm, PF_BACKEND_SIGNAL);
  return summary();
}
