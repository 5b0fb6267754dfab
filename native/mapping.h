/*
 * Mappings, memory objects and PAGEMAP_SCAN for the kernel binding: system calls of the caller's choice, on the caller's addresses. The
 * engine's own memory is os.h. Any thread, never in a signal handler. 0 or a count is success, otherwise -errno; on failure nothing has
 * changed unless the comment says so.
 */
#ifndef PF_MAPPING_H
#define PF_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- mapping.c -------------------------------------------------------------------------------------------------------- */

/* mmap(2). -EEXIST also where MAP_FIXED_NOREPLACE was taken for a hint, as before 4.17. */
int pf_mapping_map(uint64_t addr, size_t len, int prot, int flags, int fd, uint64_t offset, uint64_t *out);
int pf_mapping_unmap(uint64_t addr, size_t len);
int pf_mapping_protect(uint64_t addr, size_t len, int prot);
/* madvise(2), to the end: what it does in parts (populate) is resumed. On failure a part of the range may be done. */
int pf_mapping_advise(uint64_t addr, size_t len, int advice);
/* 1 when something is mapped at every page of the range, else 0. */
int pf_mapping_exists(uint64_t addr, size_t len);
/* Whole pages from malloc, their contents dropped: each reads zero, and is missing to a userfaultfd. */
int pf_mapping_from_malloc(size_t len, uint64_t *out);
/* To malloc again. Advice and protection that malloc could trip over are undone first; the range must not be registered any more. */
int pf_mapping_free(uint64_t addr, size_t len);
/* Whole pages by moving the program break. -EBUSY: somebody else moved it, again and again. -ENOSYS: the C library is not glibc. */
int pf_mapping_grow_break(size_t len, uint64_t *out);

/* --- memfd.c ---------------------------------------------------------------------------------------------------------- */

/* memfd_create(2). Without MFD_EXEC and MFD_NOEXEC_SEAL in flags, the kernel's default (vm.memfd_noexec) counts. */
int pf_memfd_create(const char *name, unsigned flags);
/* Bits of F_GET_SEALS. -EINVAL: no memory object. */
int pf_memfd_seals(int fd);
int pf_memfd_add_seals(int fd, unsigned seals);
/* Keeps the size; the range reads zero and costs nothing. */
int pf_memfd_punch(int fd, uint64_t offset, uint64_t len);
/* Bytes of a huge page where the descriptor is of hugetlbfs, else 0. */
int64_t pf_memfd_huge_page_size(int fd);

/* --- pagemap.c, 6.7 --------------------------------------------------------------------------------------------------- */

typedef struct {
  uint64_t start, end, categories; /* as the kernel lays out a region */
} pf_pagemap_region_t;

typedef struct {
  uint64_t flags, inverted, mask, anyof, report, max_pages; /* max_pages 0: no limit */
} pf_pagemap_query_t;

/* Descriptor of the page map of a process; pid 0: of ourselves. */
int pf_pagemap_open(int pid);
/* One PAGEMAP_SCAN. Number of regions; *walked is where to go on. On failure regions that were found before it are there, as many as
 * have an end: with re-arming they are the only word of these writes. */
int pf_pagemap_scan(int fd, uint64_t start, uint64_t end, const pf_pagemap_query_t *query, pf_pagemap_region_t *regions, size_t count,
                    uint64_t *walked);

#endif
