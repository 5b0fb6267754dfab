/*
 * Mappings: reserve, map, protect, drop. Any thread. Nothing here is locked; the one descriptor (a pidfd of ourselves,
 * for process_madvise) is opened once and published by compare-and-swap.
 */
#include "os.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#define SPANS_A_CALL 64
#define TABLE_DUMP_MAX ((size_t)16 << 20)

static _Atomic int self_pidfd = -1; /* -1 not tried, -2 process_madvise does not work here */

size_t pf_os_page_size(void) {
  static _Atomic size_t size;
  size_t known = atomic_load_explicit(&size, memory_order_relaxed);
  if (known == 0) {
    known = (size_t)sysconf(_SC_PAGESIZE);
    atomic_store_explicit(&size, known, memory_order_relaxed);
  }
  return known;
}

bool pf_os_is_exhausted(int err) { return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -EAGAIN; }

/* Of a mapping that failed. EAGAIN: it would be locked (mlockall with MCL_FUTURE), and be more than may be (RLIMIT_MEMLOCK); or it would take one mapping more than there
 * may be. To try again is no use. */
static int map_errno(void) { return errno == EAGAIN ? -ENOMEM : -errno; }

static size_t round_up(size_t len) {
  size_t page = pf_os_page_size();
  return (len + page - 1) / page * page;
}

/* Shows in /proc/self/maps as [anon:NAME], where the kernel was built to (CONFIG_ANON_VMA_NAME); failure is harmless. */
static void name_mapping(void *addr, size_t len, const char *name) {
  char clean[80];
  size_t n = 0;
  for (; name[n] != '\0' && n < sizeof clean - 1; n++) {
    char c = name[n];
    clean[n] = (c < ' ' || c > '~' || strchr("\\`$[]", c) != NULL) ? '_' : c; /* the kernel refuses these */
  }
  clean[n] = '\0';
  prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr, len, clean);
}

/* A new mapping, readable and writable, of which nothing is in memory. In a process that locks what it maps (mlockall with MCL_FUTURE) the kernel fills a
 * mapping with zeroes as soon as it is accessible, and refuses to drop any of it: so it is unlocked before. */
static int map_unlocked(size_t len, int flags, int fd, void **addr) {
  void *mapped = mmap(NULL, len, PROT_NONE, flags | MAP_NORESERVE, fd, 0);
  if (mapped == MAP_FAILED) {
    return map_errno();
  }
  munlock(mapped, len);
  if (mprotect(mapped, len, PROT_READ | PROT_WRITE) != 0) {
    int err = -errno;
    munmap(mapped, len);
    return err;
  }
  *addr = mapped;
  return 0;
}

int pf_mem_reserve(size_t len, const char *name, void **addr) {
  int err = pf_mem_reserve_inherited(len, name, addr);
  if (err == 0) {
    madvise(*addr, round_up(len), MADV_DONTFORK);
  }
  return err;
}

int pf_mem_reserve_inherited(size_t len, const char *name, void **addr) {
  size_t rounded = round_up(len);
  void *mapped;
  int err = map_unlocked(rounded, MAP_PRIVATE | MAP_ANONYMOUS, -1, &mapped);
  if (err != 0) {
    return err;
  }
  madvise(mapped, rounded, MADV_NOHUGEPAGE); /* one byte touched must cost a page, not 2 MiB */
  name_mapping(mapped, rounded, name);
  if (rounded > TABLE_DUMP_MAX) { /* reserved for many, used from the start: gdb's generate-core-file would read and write all of it */
    pf_mem_no_dump((uint8_t *)mapped + TABLE_DUMP_MAX, rounded - TABLE_DUMP_MAX);
  }
  *addr = mapped;
  return 0;
}

/* A core that has it walks over every page; of an object it fills the holes, in memory and on disk (6.18: 4 GiB took 76 s and wrote 8 GiB). */
void pf_mem_no_dump(void *addr, size_t len) { madvise(addr, len, MADV_DONTDUMP); }

/* An inaccessible range of len bytes at a multiple of align, and a guard page behind it. */
static int reserve_aligned(size_t len, size_t align, uint8_t **addr) {
  size_t page = pf_os_page_size();
  size_t slack = align > page ? align : 0;
  if (len + slack + page < len) {
    return -ENOMEM;
  }
  size_t total = len + slack + page;
  uint8_t *mapped = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    return map_errno();
  }
  munlock(mapped, total); /* as in map_unlocked */
  uint8_t *start = mapped;
  if (slack != 0) {
    start = (uint8_t *)(((uintptr_t)mapped + align - 1) / align * align);
    if (start != mapped) {
      munmap(mapped, (size_t)(start - mapped));
    }
    uint8_t *end = start + len + page;
    if (end != mapped + total) {
      munmap(end, (size_t)(mapped + total - end));
    }
  }
  *addr = start;
  return 0;
}

int pf_mem_map_region(size_t len, size_t align, const char *name, uint8_t **addr) {
  uint8_t *start;
  int err = reserve_aligned(len, align, &start);
  if (err != 0) {
    return err;
  }
  if (madvise(start, len, MADV_DONTFORK) != 0) {
    err = map_errno();
    pf_mem_unmap_region(start, len);
    return err;
  }
  madvise(start, len, MADV_NOHUGEPAGE); /* pages come and go one by one, and are moved so */
  madvise(start, len, MADV_UNMERGEABLE); /* in a process that asked for it (PR_SET_MEMORY_MERGE) the kernel replaces pages, and forgets their protection */
  name_mapping(start, len, name);
  if (len > PF_MEM_DUMP_MAX) {
    pf_mem_no_dump(start, len);
  }
  *addr = start;
  return 0;
}

/* Descriptor of a new memory object of len bytes, or -errno. The mappings keep the object; the caller closes. */
static int memory_object(size_t len, const char *name, unsigned flags) {
  int fd = memfd_create(name, MFD_CLOEXEC | flags);
  if (fd < 0) {
    return -errno;
  }
  if (ftruncate(fd, (off_t)len) != 0) {
    int err = -errno;
    close(fd);
    return err;
  }
  return fd;
}

/* Maps the object inaccessible at `user` and readable and writable for us. */
static int map_both(int fd, uint8_t *user, size_t len, uint8_t **ours) {
  void *mine;
  int err = map_unlocked(len, MAP_SHARED, fd, &mine);
  if (err != 0) {
    return err;
  }
  if (mmap(user, len, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED) {
    err = map_errno();
    munmap(mine, len);
    return err;
  }
  munlock(user, len);
  madvise(mine, len, MADV_DONTFORK);
  pf_mem_no_dump(mine, len);
  madvise(mine, len, MADV_NOHUGEPAGE); /* one page filled must not make 511 neighbours look filled */
  madvise(user, len, MADV_DONTFORK);
  pf_mem_no_dump(user, len);
  madvise(user, len, MADV_NOHUGEPAGE); /* as a twin of ours has it, which may take the place of a part of it */
  *ours = mine;
  return 0;
}

int pf_mem_object(size_t len, const char *name, int *fd) {
  *fd = memory_object(len, name, MFD_ALLOW_SEALING);
  return *fd < 0 ? *fd : 0;
}

int pf_mem_map_ours(int fd, size_t len, uint8_t **ours) {
  void *mine;
  int err = map_unlocked(len, MAP_SHARED, fd, &mine);
  if (err != 0) {
    return err;
  }
  madvise(mine, len, MADV_DONTFORK);
  pf_mem_no_dump(mine, len);
  madvise(mine, len, MADV_NOHUGEPAGE); /* one page filled must not make 511 neighbours look filled */
  *ours = mine;
  return 0;
}

int pf_mem_replace(uint8_t *addr, size_t len, int fd, uint64_t offset, const char *name) {
  int flags = MAP_FIXED | MAP_NORESERVE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
  if (mmap(addr, len, PROT_NONE, flags, fd, (off_t)offset) == MAP_FAILED) {
    return map_errno();
  }
  munlock(addr, len);
  madvise(addr, len, MADV_DONTFORK);
  if (fd >= 0) {
    pf_mem_no_dump(addr, len);
  }
  madvise(addr, len, MADV_NOHUGEPAGE);
  madvise(addr, len, MADV_UNMERGEABLE);
  name_mapping(addr, len, name);
  return 0;
}

/* A second mapping of shared memory, by mremap from a length of 0; inaccessible before it takes its place. */
int pf_mem_replace_by_twin(uint8_t *addr, size_t len, uint8_t *twin) {
  void *made = mremap(twin, 0, len, MREMAP_MAYMOVE);
  if (made == MAP_FAILED) {
    return map_errno();
  }
  if (mprotect(made, len, PROT_NONE) != 0 || mremap(made, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, addr) == MAP_FAILED) {
    int err = map_errno();
    munmap(made, len);
    return err;
  }
  munlock(addr, len);
  madvise(addr, len, MADV_DONTFORK);
  return 0;
}

int pf_mem_map_twice_at(uint8_t *user, size_t len, const char *name, uint8_t **ours) {
  int fd = memory_object(len, name, 0);
  if (fd < 0) {
    return fd;
  }
  int err = map_both(fd, user, len, ours);
  close(fd);
  return err;
}

int pf_mem_map_twice(size_t len, size_t align, const char *name, uint8_t **user, uint8_t **ours) {
  uint8_t *start;
  int err = reserve_aligned(len, align, &start);
  if (err != 0) {
    return err;
  }
  err = pf_mem_map_twice_at(start, len, name, ours);
  if (err != 0) {
    pf_mem_unmap_region(start, len);
    return err;
  }
  *user = start;
  return 0;
}

void pf_mem_unmap_region(uint8_t *addr, size_t len) { munmap(addr, len + pf_os_page_size()); }

int pf_mem_bar_region(uint8_t *addr, size_t len) {
  size_t total = len + pf_os_page_size();
  struct rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    munmap(addr, total);
    return -ENOMEM;
  }
  if (mmap(addr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    int err = map_errno();
    munmap(addr, total);
    return err;
  }
  munlock(addr, total); /* as in map_unlocked */
  return 0;
}

void pf_mem_unmap(void *addr, size_t len) { munmap(addr, round_up(len)); }

int pf_mem_protect(void *addr, size_t len, int prot) { return mprotect(addr, len, prot) == 0 ? 0 : -errno; }

int pf_mem_drop(void *addr, size_t len) { return madvise(addr, len, MADV_DONTNEED) == 0 ? 0 : -errno; }

int pf_mem_punch(void *ours, size_t len) { return madvise(ours, len, MADV_REMOVE) == 0 ? 0 : -errno; }

int pf_mem_resident(void *addr, size_t len) {
  unsigned char seen[SPANS_A_CALL];
  size_t page = pf_os_page_size();
  for (size_t done = 0; done < len;) {
    size_t part = len - done < sizeof seen * page ? len - done : sizeof seen * page;
    if (mincore((uint8_t *)addr + done, part, seen) != 0) {
      return -errno;
    }
    for (size_t i = 0; i < part / page; i++) {
      if (!(seen[i] & 1)) {
        return 0;
      }
    }
    done += part;
  }
  return 1;
}

/* The pidfd for process_madvise on ourselves, or -2. MADV_DONTNEED on oneself is allowed since 6.13; older kernels say EINVAL. */
static int own_pidfd(void) {
  int fd = atomic_load_explicit(&self_pidfd, memory_order_acquire);
  if (fd != -1) {
    return fd;
  }
  fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
  int usable = -2;
  if (fd < 0 && pf_os_is_exhausted(-errno)) {
    return usable; /* for now */
  }
  if (fd >= 0) {
    void *probe = mmap(NULL, pf_os_page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe == MAP_FAILED) {
      close(fd);
      return usable; /* for now, too */
    }
    struct iovec span = {.iov_base = probe, .iov_len = pf_os_page_size()};
    if (syscall(SYS_process_madvise, fd, &span, 1UL, MADV_DONTNEED, 0U) == (long)span.iov_len) {
      usable = fd;
    }
    munmap(probe, pf_os_page_size());
    if (usable < 0) {
      close(fd);
    }
  }
  int expected = -1;
  if (!atomic_compare_exchange_strong(&self_pidfd, &expected, usable)) {
    if (usable >= 0) {
      close(usable);
    }
    return expected;
  }
  return usable;
}

bool pf_mem_drops_vectored(void) { return own_pidfd() >= 0; }

int pf_mem_drop_many(const pf_span_t *spans, size_t count) {
  if (count == 1) {
    return pf_mem_drop(spans[0].addr, spans[0].len);
  }
  size_t next = 0;
  int fd = own_pidfd();
  while (fd >= 0 && next < count) {
    struct iovec batch[SPANS_A_CALL];
    size_t n = 0;
    ssize_t bytes = 0;
    for (; n < SPANS_A_CALL && next + n < count; n++) {
      batch[n] = (struct iovec){.iov_base = spans[next + n].addr, .iov_len = spans[next + n].len};
      bytes += (ssize_t)spans[next + n].len;
    }
    if (syscall(SYS_process_madvise, fd, batch, n, MADV_DONTNEED, 0U) != bytes) {
      break; /* refused or partial: dropping twice is harmless, so the rest goes one by one */
    }
    next += n;
  }
  int err = 0;
  for (; next < count; next++) {
    int one = pf_mem_drop(spans[next].addr, spans[next].len);
    err = err != 0 ? err : one;
  }
  return err;
}

int pf_mem_wiped_on_fork(_Atomic uint32_t **word) {
  void *page = mmap(NULL, pf_os_page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return -errno;
  }
  if (madvise(page, pf_os_page_size(), MADV_WIPEONFORK) != 0) {
    int err = -errno;
    munmap(page, pf_os_page_size());
    return err;
  }
  *word = page;
  return 0;
}

extern _Atomic int pf__own_uffd[], pf__own_pagemap; /* own_uffd.c */
unsigned pf_mem_hand_descriptors(void);             /* hand.c */

unsigned pf_os_descriptors(void) {
  unsigned count = (atomic_load(&self_pidfd) >= 0 ? 1U : 0U) + (atomic_load(&pf__own_pagemap) >= 0 ? 1U : 0U);
  for (int which = 0; which < PF_OWNS; which++) {
    count += atomic_load(&pf__own_uffd[which]) >= 0 ? 1U : 0U;
  }
  return count + pf_mem_hand_descriptors();
}
