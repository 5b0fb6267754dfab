/*
 * mmap(2) and its family for the kernel binding, and pages of the process's own heap. Any thread, no lock: the address space has the
 * kernel's. Only the program break is shared with the C library, see pf_mapping_grow_break.
 */
#include "mapping.h"
#include "os.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BREAK_TRIES 8

static void *at(uint64_t addr) { return (void *)(uintptr_t)addr; }

int pf_mapping_map(uint64_t addr, size_t len, int prot, int flags, int fd, uint64_t offset, uint64_t *out) {
  void *mapped = mmap(at(addr), len, prot, flags, fd, (off_t)offset);
  if (mapped == MAP_FAILED) {
    return -errno;
  }
  if ((flags & MAP_FIXED_NOREPLACE) != 0 && mapped != at(addr)) {
    munmap(mapped, len); /* a kernel before 4.17 does not know the flag and maps elsewhere */
    return -EEXIST;
  }
  *out = (uint64_t)(uintptr_t)mapped;
  return 0;
}

int pf_mapping_unmap(uint64_t addr, size_t len) { return munmap(at(addr), len) == 0 ? 0 : -errno; }

int pf_mapping_protect(uint64_t addr, size_t len, int prot) { return mprotect(at(addr), len, prot) == 0 ? 0 : -errno; }

int pf_mapping_advise(uint64_t addr, size_t len, int advice) {
  for (int tries = 0;; tries++) {
    if (madvise(at(addr), len, advice) == 0) {
      return 0;
    }
    /* Populating stops at a signal and COLLAPSE for want of a lock; what was done is done, so that the same call goes on. */
    if (errno != EINTR && (errno != EAGAIN || tries >= 16)) {
      return -errno;
    }
  }
}

/* msync(MS_ASYNC) does nothing since 2.6.19 but look whether everything is mapped; it touches no page and costs a walk over mappings. */
int pf_mapping_exists(uint64_t addr, size_t len) { return msync(at(addr), len, MS_ASYNC) == 0 ? 1 : 0; }

int pf_mapping_from_malloc(size_t len, uint64_t *out) {
  void *pages;
  int err = posix_memalign(&pages, pf_os_page_size(), len);
  if (err != 0) {
    return -err;
  }
  /* malloc keeps its own words beside the pages, never in pages that are handed out whole. */
  if (madvise(pages, len, MADV_DONTNEED) != 0) {
    err = -errno;
    free(pages);
    return err;
  }
  *out = (uint64_t)(uintptr_t)pages;
  return 0;
}

int pf_mapping_free(uint64_t addr, size_t len) {
  /* free writes into the pages and hands them to others, who expect plain memory. */
  if (mprotect(at(addr), len, PROT_READ | PROT_WRITE) != 0) {
    return -errno;
  }
  static const int undone[] = {MADV_DOFORK, MADV_DODUMP, MADV_KEEPONFORK, MADV_NORMAL};
  for (size_t i = 0; i < sizeof undone / sizeof *undone; i++) {
    madvise(at(addr), len, undone[i]); /* an older kernel that does not know one has not done its opposite either */
  }
  free(at(addr));
  return 0;
}

/*
 * The break belongs to the C library: malloc moves it under a lock that is not ours. A move between our look and our call shows in what
 * sbrk returns, and the pages that were got then are left alone, because giving them back could take what another thread has got on top.
 * Two calls at the very same time inside the C library cannot be told apart: hence the advice to call this early, from one thread.
 */
int pf_mapping_grow_break(size_t len, uint64_t *out) {
#ifndef __GLIBC__
  (void)len; /* musl's sbrk moves nothing, and moving the break behind its back would take memory from its allocator */
  (void)out;
  return -ENOSYS;
#endif
  uintptr_t page = pf_os_page_size();
  if (len > (size_t)INTPTR_MAX - page) {
    return -ENOMEM;
  }
  for (int tries = 0; tries < BREAK_TRIES; tries++) {
    uintptr_t before = (uintptr_t)sbrk(0);
    if (before == (uintptr_t)-1) {
      return -ENOMEM;
    }
    uintptr_t start = (before + page - 1) / page * page;
    void *old = sbrk((intptr_t)(start - before + len));
    if (old == (void *)-1) {
      return errno != 0 ? -errno : -ENOMEM;
    }
    if ((uintptr_t)old == before && (uintptr_t)sbrk(0) >= start + len) {
      *out = start;
      return 0;
    }
  }
  return -EBUSY;
}
