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
#include <sys/uio.h>
#include <unistd.h>

#define SPANS_A_CALL 64

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

int pf_mem_reserve(size_t len, const char *name, void **addr) {
  size_t rounded = round_up(len);
  void *mapped = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    return -errno;
  }
  madvise(mapped, rounded, MADV_DONTFORK);
  madvise(mapped, rounded, MADV_NOHUGEPAGE); /* one byte touched must cost a page, not 2 MiB */
  name_mapping(mapped, rounded, name);
  *addr = mapped;
  return 0;
}

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
    return -errno;
  }
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

int pf_mem_map_region(size_t len, size_t align, int prot, const char *name, uint8_t **addr) {
  uint8_t *start;
  int err = reserve_aligned(len, align, &start);
  if (err != 0) {
    return err;
  }
  if (mprotect(start, len, prot) != 0 || madvise(start, len, MADV_DONTFORK) != 0) {
    err = -errno;
    pf_mem_unmap_region(start, len);
    return err;
  }
  name_mapping(start, len, name);
  *addr = start;
  return 0;
}

/* Descriptor of a new memory object of len bytes, or -errno. The mappings keep the object; the caller closes. */
static int memory_object(size_t len, const char *name) {
  int fd = memfd_create(name, MFD_CLOEXEC);
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
  void *mine = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (mine == MAP_FAILED) {
    return -errno;
  }
  if (mmap(user, len, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED) {
    int err = -errno;
    munmap(mine, len);
    return err;
  }
  madvise(mine, len, MADV_DONTFORK);
  madvise(mine, len, MADV_NOHUGEPAGE); /* one page filled must not make 511 neighbours look filled */
  madvise(user, len, MADV_DONTFORK);
  *ours = mine;
  return 0;
}

int pf_mem_map_twice_at(uint8_t *user, size_t len, const char *name, uint8_t **ours) {
  int fd = memory_object(len, name);
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

void pf_mem_unmap(void *addr, size_t len) { munmap(addr, round_up(len)); }

int pf_mem_protect(void *addr, size_t len, int prot) { return mprotect(addr, len, prot) == 0 ? 0 : -errno; }

int pf_mem_drop(void *addr, size_t len) { return madvise(addr, len, MADV_DONTNEED) == 0 ? 0 : -errno; }

int pf_mem_punch(void *ours, size_t len) { return madvise(ours, len, MADV_REMOVE) == 0 ? 0 : -errno; }

int pf_mem_not_inherited(void *addr, size_t len) { return madvise(addr, len, MADV_DONTFORK) == 0 ? 0 : -errno; }

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
  if (fd >= 0) {
    void *probe = mmap(NULL, pf_os_page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe != MAP_FAILED) {
      struct iovec span = {.iov_base = probe, .iov_len = pf_os_page_size()};
      if (syscall(SYS_process_madvise, fd, &span, 1UL, MADV_DONTNEED, 0U) == (long)span.iov_len) {
        usable = fd;
      }
      munmap(probe, pf_os_page_size());
    }
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

extern _Atomic int pf__own_uffd; /* own_uffd.c */

unsigned pf_os_descriptors(void) {
  return (atomic_load(&self_pidfd) >= 0 ? 1U : 0U) + (atomic_load(&pf__own_uffd) >= 0 ? 1U : 0U);
}
