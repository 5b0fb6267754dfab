/*
 * PAGEMAP_SCAN (6.7): which pages are there, and which were written. Any thread; the kernel holds the address space while it walks.
 */
#include "mapping.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(pf_pagemap_region_t) == sizeof(struct pf_page_region), "one layout");

int pf_pagemap_open(int pid) {
  char path[40] = "/proc/self/pagemap";
  if (pid != 0) {
    snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
  }
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd >= 0 ? fd : -errno;
}

int pf_pagemap_scan(int fd, uint64_t start, uint64_t end, const pf_pagemap_query_t *query, pf_pagemap_region_t *regions, size_t count,
                    uint64_t *walked) {
  struct pf_pm_scan_arg arg = {
      .size = sizeof arg,
      .flags = query->flags,
      .start = start,
      .end = end,
      .vec = (uint64_t)(uintptr_t)regions,
      .vec_len = count,
      .max_pages = query->max_pages,
      .category_inverted = query->inverted,
      .category_mask = query->mask,
      .category_anyof_mask = query->anyof,
      .return_mask = query->report,
  };
  memset(regions, 0, count * sizeof *regions);
  int found = ioctl(fd, PF_PAGEMAP_SCAN, &arg);
  if (found < 0) {
    return -errno;
  }
  *walked = arg.walk_end;
  return found;
}
