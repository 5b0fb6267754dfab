/*
 * Definitions of the kernel that the headers of a build machine may be too old for, and one call that several floors make. For the floors
 * alone: the engine has its own.
 */
#ifndef FLOOR_KERNEL_H
#define FLOOR_KERNEL_H

#include <linux/userfaultfd.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define FLOOR_FEATURE_SIGBUS (1ULL << 7)       /* 4.14 */
#define FLOOR_FEATURE_MINOR_SHMEM (1ULL << 10) /* 5.14 */
#define FLOOR_FEATURE_WP_ASYNC (1ULL << 15)    /* 6.7 */

#define FLOOR_REGISTER_MISSING 1ULL
#define FLOOR_REGISTER_WP 2ULL    /* 5.7 */
#define FLOOR_REGISTER_MINOR 4ULL /* 5.13 */

#define FLOOR_COPY_WP 2ULL /* 5.7 */

struct floor_continue { /* 5.13 */
  struct uffdio_range range;
  uint64_t mode;
  int64_t mapped;
};
#define FLOOR_CONTINUE _IOWR(0xAA, 0x07, struct floor_continue)

/* PAGEMAP_SCAN, 6.7 */
struct floor_page_region {
  uint64_t start, end, categories;
};
struct floor_scan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t inverted, mask, any, returned;
};
#define FLOOR_SCAN _IOWR('f', 16, struct floor_scan)
#define FLOOR_SCAN_REARM 1ULL       /* write-protects what it reports */
#define FLOOR_SCAN_CHECK_ASYNC 2ULL /* and fails where the kernel does not note writes itself */
#define FLOOR_PAGE_WRITTEN 2ULL
#define FLOOR_PAGE_PRESENT 8ULL
#define FLOOR_PAGE_ZERO 32ULL /* the kernel's shared page of zeroes */

/*
 * One PAGEMAP_SCAN for pages that were written to, merged into at most `max` regions. Absent pages would be reported as written, and arming
 * them would allocate page tables: it asks for present ones, as a pager must. The number of regions and where to go on, or -errno.
 */
int floor_scan(int pagemap, uintptr_t from, uintptr_t to, uint64_t flags, struct floor_page_region *regions, size_t max, uintptr_t *next);

#endif
