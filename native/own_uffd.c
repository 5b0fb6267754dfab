/*
 * The engine's userfaultfds: four for the process at most, opened when they are first needed and kept: closing one would let every missing page read as
 * zeroes. How writes are told apart is a property of the descriptor, not of the range (WP_ASYNC), and so is who hears of a fault:
 *
 *                            the thread that faults (SIGBUS,          the service thread (a message); the thread waits in
 *                            user-mode-only)                          the kernel, also in a system call
 *   written pages are
 *     noted by the kernel    PF_OWN_ASYNC                             PF_OWN_SERVED_ASYNC      6.8: nobody is stopped (WP_ASYNC is of 6.7,
 *                                                                                     MOVE, to close such pages, of 6.8)
 *     faults                 PF_OWN_SYNC                              PF_OWN_SERVED_SYNC       5.7
 *
 * Opening a page wakes nobody: on the left nobody waits, on the right threads wake when the page is PRESENT (pf_pages_wake), not a moment before.
 * Any thread, a signal handler too. What the kernel remembers is read from our own page map (PAGEMAP_SCAN, 6.7), and so is which pages there are.
 */
#include "mapping.h"
#include "os.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define REGIONS_A_SCAN 64
#define REGIONS_AN_ARMING 260 /* of 512 pages every other one may be written, and each call interrupts the other threads */
#define MISC_MAJOR 10
#define TRIES 64 /* of a call that the kernel answers with EAGAIN because another thread changes the mapping */

_Atomic int pf__own_uffd[PF_OWNS] = {-1, -1, -1, -1};
_Atomic int pf__own_pagemap = -1; /* -1 not tried, -2 not to be had */
static _Atomic uint64_t features_of[PF_OWNS];
static _Atomic int lent = -1; /* a descriptor of /dev/userfaultfd, or -1 */

/* --- what the kernel has ------------------------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  uint64_t bit;
} maskable[] = {
    {"wp", PF_UFFD_FEATURE_WP | PF_UFFD_FEATURE_WP_ASYNC},
    {"wp_async", PF_UFFD_FEATURE_WP_ASYNC},
    {"wp_unpopulated", PF_UFFD_FEATURE_WP_UNPOPULATED},
    {"move", PF_UFFD_FEATURE_MOVE},
    {"poison", PF_UFFD_FEATURE_POISON},
    {"minor", PF_UFFD_FEATURE_MINOR_SHMEM},
    {"wp_shmem", PF_UFFD_FEATURE_WP_SHMEM},
};

/* Features that we are to do without, from the environment: older kernels are tested on newer ones. */
static uint64_t masked(void) {
  const char *at = getenv("PAGEFAULT_WITHOUT");
  uint64_t bits = 0;
  while (at != NULL && *at != '\0') {
    size_t len = strcspn(at, ", ");
    for (size_t i = 0; i < sizeof maskable / sizeof *maskable; i++) {
      if (strlen(maskable[i].name) == len && strncmp(at, maskable[i].name, len) == 0) {
        bits |= maskable[i].bit;
      }
    }
    at += len + (at[len] != '\0');
  }
  return bits;
}

/* By the system call or, where that is refused, from a descriptor of its device (6.1): one that we were lent or, for the faults of the kernel, one that we may open
 * ourselves. (Who forbids the system call means that; who opens the device to us means that, too.) */
static int open_any(int flags, bool *by_device) {
  int fd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK | flags, -1);
  *by_device = false;
  if (fd >= 0) {
    return fd;
  }
  int device = atomic_load(&lent), opened = device >= 0 || (flags & PF_UFFD_USER_MODE_ONLY) ? -1 : open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0 || opened >= 0) {
    int made = pf_uffd_open(O_CLOEXEC | O_NONBLOCK | flags, device >= 0 ? device : opened);
    *by_device = made >= 0;
    fd = made >= 0 ? made : fd;
  }
  if (opened >= 0) {
    close(opened);
  }
  return fd;
}

/* Before 5.11 there was no flag for faults of user mode alone, and no need for it. */
static int open_for_mode(bool kernel_mode, bool *by_device) {
  int fd = open_any(kernel_mode ? 0 : PF_UFFD_USER_MODE_ONLY, by_device);
  return fd == -EINVAL && !kernel_mode ? open_any(0, by_device) : fd;
}

int pf_own_uffd_lend(int device) {
  struct stat what;
  if (fstat(device, &what) != 0) {
    return -errno;
  }
  if (!S_ISCHR(what.st_mode) || major(what.st_rdev) != MISC_MAJOR) { /* another device might make something of our ioctl */
    return -ENOTTY;
  }
  int made = pf_uffd_open(O_CLOEXEC | O_NONBLOCK | PF_UFFD_USER_MODE_ONLY, device);
  if (made < 0) {
    return made;
  }
  close(made);
  int before = -1, ours = fcntl(device, F_DUPFD_CLOEXEC, 0);
  if (ours < 0) {
    return -errno;
  }
  if (atomic_compare_exchange_strong(&lent, &before, ours)) {
    return 0;
  }
  int err = dup3(ours, before, O_CLOEXEC) < 0 ? -errno : 0; /* another thread may be about to use the number, which must not become somebody else's */
  close(ours);
  return err;
}

int pf_own_uffd_take(int device) {
  if (atomic_load(&lent) >= 0) {
    return 0;
  }
  int err = pf_own_uffd_lend(device);
  char *value = err == 0 ? getenv("PAGEFAULT_USERFAULTFD") : NULL;
  if (value != NULL && *value != '\0') {
    *value = '\0'; /* not unsetenv, which moves what getenv of another thread reads */
  }
  return err;
}

int pf_own_uffd_may(bool served, bool *device) {
  int fd = open_for_mode(served, device);
  if (fd >= 0) {
    close(fd);
  }
  return fd >= 0 ? 0 : -fd;
}

/* What of `wanted` there is. -errno: the kernel cannot tell now. */
static int offered_of(uint64_t wanted, uint64_t *out) {
  uint64_t offered = 0, ioctls;
  bool by_device;
  int fd = open_for_mode(false, &by_device);
  *out = 0;
  if (fd < 0) {
    return fd;
  }
  int err = pf_uffd_handshake(fd, 0, &offered, &ioctls);
  close(fd);
  *out = err == 0 ? offered & wanted & ~masked() : 0;
  return err;
}

/* --- opening --------------------------------------------------------------------------------------------------------------- */

/* A descriptor after the handshake, or -errno. */
static int open_with(bool kernel_mode, uint64_t features) {
  uint64_t granted, ioctls;
  bool by_device;
  int fd = open_for_mode(kernel_mode, &by_device);
  if (fd < 0) {
    return fd;
  }
  int err = pf_uffd_handshake(fd, features, &granted, &ioctls);
  if (err != 0) {
    close(fd);
    return err;
  }
  return fd;
}

static void publish(_Atomic int *where, int none, int fd) {
  if (!atomic_compare_exchange_strong(where, &none, fd) && fd >= 0) {
    close(fd);
  }
}

int pf_own_uffd_start(pf_own_t which) {
  if (atomic_load(&pf__own_uffd[which]) >= 0) {
    return 0;
  }
  uint64_t wanted = PF_UFFD_FEATURE_WP;
  if (!pf_own_is_sync(which)) {
    wanted |= PF_UFFD_FEATURE_WP_UNPOPULATED | PF_UFFD_FEATURE_WP_ASYNC | PF_UFFD_FEATURE_MOVE | PF_UFFD_FEATURE_MINOR_SHMEM;
  } else {
    wanted |= PF_UFFD_FEATURE_WP_SHMEM | PF_UFFD_FEATURE_MINOR_SHMEM | PF_UFFD_FEATURE_WP_UNPOPULATED;
  }
  uint64_t features;
  int err = offered_of(wanted, &features);
  if (err != 0) {
    return err;
  }
  if (pf_own_is_sync(which) && !(features & PF_UFFD_FEATURE_WP)) {
    return -EOPNOTSUPP;
  }
  features |= pf_own_is_served(which) ? PF_UFFD_FEATURE_THREAD_ID : PF_UFFD_FEATURE_SIGBUS; /* both 4.14 */
  int fd = open_with(pf_own_is_served(which), features);
  if (fd < 0) {
    return fd;
  }
  if (!pf_own_is_sync(which) && atomic_load(&pf__own_pagemap) == -1) {
    int map = pf_pagemap_open(0);
    if (pf_os_is_exhausted(map)) { /* what is decided here stays */
      close(fd);
      return map;
    }
    publish(&pf__own_pagemap, -1, map >= 0 ? map : -2);
  }
  atomic_store(&features_of[which], features);
  publish(&pf__own_uffd[which], -1, fd);
  return 0;
}

uint64_t pf_own_uffd_features(pf_own_t which) { return atomic_load(&features_of[which]); }

bool pf_own_uffd_tracks(pf_own_t which) {
  uint64_t needed = PF_UFFD_FEATURE_WP | PF_UFFD_FEATURE_WP_ASYNC | PF_UFFD_FEATURE_MOVE;
  return (pf_own_uffd_features(which) & needed) == needed && atomic_load(&pf__own_pagemap) >= 0;
}

int pf_own_uffd_offers(void) {
  uint64_t async = PF_UFFD_FEATURE_WP | PF_UFFD_FEATURE_WP_ASYNC | PF_UFFD_FEATURE_MOVE;
  uint64_t offered;
  int err = offered_of(async, &offered);
  int map = err == 0 && offered == async ? pf_pagemap_open(0) : -1;
  if (map >= 0) {
    close(map);
    return PF_OWN_ASYNC;
  }
  if (err != 0 || pf_os_is_exhausted(map)) {
    return err != 0 ? err : map;
  }
  return offered & PF_UFFD_FEATURE_WP ? PF_OWN_SYNC : -EOPNOTSUPP;
}

unsigned pf_own_uffd_offers_shared(void) {
  uint64_t offered;
  offered_of(PF_OWN_CAN_MINOR | PF_OWN_CAN_PROTECT_SHARED | PF_UFFD_FEATURE_WP, &offered);
  bool protects = (offered & PF_OWN_CAN_PROTECT_SHARED) == PF_OWN_CAN_PROTECT_SHARED && (offered & PF_UFFD_FEATURE_WP);
  return !(offered & PF_OWN_CAN_MINOR) ? 0 : protects ? PF_OWN_MINOR | PF_OWN_PROTECT : PF_OWN_MINOR;
}

static int descriptor(pf_own_t which) { return atomic_load_explicit(&pf__own_uffd[which], memory_order_relaxed); }

int pf_own_uffd_descriptor(pf_own_t which) { return descriptor(which); }

#if defined(__SANITIZE_THREAD__)
/* That a service thread answers a touch, and that whoever touched goes on after it was woken, is known to the kernel alone; the tests say the other half of it
 * (native/test/support.h). */
char pf__told;
void __tsan_release(void *addr);
#endif

int pf_own_uffd_wake(pf_own_t which, void *addr, size_t len) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&pf__told);
#endif
  return pf_uffd_rouse(descriptor(which), (uintptr_t)addr, len);
}

/* --- ranges ---------------------------------------------------------------------------------------------------------------- */

int pf_own_uffd_register(pf_own_t which, void *addr, size_t len, unsigned modes) {
  uint64_t ioctls, mode = PF_UFFDIO_REGISTER_MODE_MISSING;
  mode |= modes & PF_OWN_PROTECT ? PF_UFFDIO_REGISTER_MODE_WP : 0;
  mode |= modes & PF_OWN_MINOR ? PF_UFFDIO_REGISTER_MODE_MINOR : 0;
  return pf_uffd_register(descriptor(which), (uintptr_t)addr, len, mode, &ioctls);
}

/* The kernel wants a range to lie in one mapping, and says ENOENT otherwise; mlock(2) of a part makes several. Then it is done page by page. */
static bool smaller(int64_t result, size_t *most) {
  bool may_be = result == -ENOENT && *most > pf_os_page_size();
  if (may_be) {
    *most = pf_os_page_size();
  }
  return may_be;
}

static size_t part(size_t most, size_t left) { return most < left ? most : left; }

/* Goes on after a partial run, which is what the kernel makes of an obstacle that is not at the very start. */
int pf_own_uffd_copy(pf_own_t which, void *addr, const void *src, size_t len, bool protect, size_t *done) {
  uint64_t mode = PF_UFFDIO_COPY_MODE_DONTWAKE | (protect ? PF_UFFDIO_COPY_MODE_WP : 0);
  int fd = descriptor(which);
  size_t most = len;
  for (*done = 0; *done < len;) {
    int64_t moved = pf_uffd_copy(fd, (uintptr_t)addr + *done, (uintptr_t)src + *done, part(most, len - *done), mode);
    if (moved < 0 && !smaller(moved, &most)) {
      return (int)moved;
    }
    *done += moved < 0 ? 0 : (size_t)moved;
  }
  return 0;
}

int pf_own_uffd_zero(pf_own_t which, void *addr, size_t len, size_t *done) {
  int fd = descriptor(which);
  size_t most = len;
  for (*done = 0; *done < len;) {
    int64_t moved = pf_uffd_zeropage(fd, (uintptr_t)addr + *done, part(most, len - *done), PF_UFFDIO_COPY_MODE_DONTWAKE);
    if (moved < 0 && !smaller(moved, &most)) {
      return (int)moved;
    }
    *done += moved < 0 ? 0 : (size_t)moved;
  }
  return 0;
}

int pf_own_uffd_continue(pf_own_t which, void *addr, size_t len, bool protect) {
  uint64_t mode = PF_UFFDIO_COPY_MODE_DONTWAKE | (protect ? PF_UFFDIO_CONTINUE_MODE_WP : 0);
  int fd = descriptor(which), tries = 0;
  size_t most = len;
  for (size_t done = 0; done < len;) {
    int64_t mapped = pf_uffd_continue(fd, (uintptr_t)addr + done, part(most, len - done), mode);
    if (smaller(mapped, &most)) {
      continue;
    }
    if (mapped > 0) {
      done += (size_t)mapped;
    } else if (mapped == -EEXIST) {
      done += pf_os_page_size();
    } else if (mapped == -EAGAIN && ++tries < TRIES) {
      sched_yield();
    } else {
      return mapped == 0 ? -EIO : (int)mapped;
    }
  }
  return 0;
}

int pf_own_uffd_protect(pf_own_t which, void *addr, size_t len, bool on) {
  int err = -EAGAIN;
  for (int tries = 0; err == -EAGAIN && tries < TRIES; tries++) {
    if (tries > 0) {
      sched_yield();
    }
    err = pf_uffd_write_protect(descriptor(which), (uintptr_t)addr, len, on ? PF_UFFDIO_WRITEPROTECT_MODE_WP : PF_UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
  }
  return err;
}

int pf_own_uffd_move(pf_own_t which, void *to, void *from, size_t len) {
  size_t done = 0;
  for (int tries = 0; done < len;) {
    int64_t moved = pf_uffd_move(descriptor(which), (uintptr_t)to + done, (uintptr_t)from + done, len - done, PF_UFFDIO_COPY_MODE_DONTWAKE);
    if (moved > 0) {
      done += (size_t)moved;
    } else if (moved == -EAGAIN && ++tries < TRIES) {
      sched_yield();
    } else {
      return moved == 0 ? -EIO : (int)moved;
    }
  }
  return 0;
}

/* --- the page map ------------------------------------------------------------------------------------------------------------ */

/* The page map as it is read since 2.6: a word for each page, bit 63 present, bit 62 swapped. mincore(2) knows nothing of what is swapped. */
static int read_holds(int map, uintptr_t at, uintptr_t end) {
  uint64_t words[64];
  size_t size = pf_os_page_size();
  while (at < end) {
    size_t count = (end - at) / size < 64 ? (end - at) / size : 64;
    ssize_t got = pread(map, words, count * sizeof *words, (off_t)(at / size * sizeof *words));
    if (got != (ssize_t)(count * sizeof *words)) {
      return got < 0 ? -errno : -EIO;
    }
    for (size_t i = 0; i < count; i++) {
      if (!(words[i] >> 62)) {
        return 0;
      }
    }
    at += count * size;
  }
  return 1;
}

static int scan_holds(int map, uint64_t at, uint64_t end) {
  static const pf_pagemap_query_t query = {.anyof = PF_PAGE_IS_PRESENT | PF_PAGE_IS_SWAPPED, .report = PF_PAGE_IS_PRESENT};
  while (at < end) {
    pf_pagemap_region_t found[4];
    uint64_t walked;
    int count = pf_pagemap_scan(map, at, end, &query, found, 4, &walked);
    if (count < 0) {
      return count;
    }
    for (int i = 0; i < count; i++) {
      if (found[i].start != at) {
        return 0;
      }
      at = found[i].end;
    }
    if (count == 0) {
      return 0;
    }
  }
  return 1;
}

int pf_own_uffd_holds(void *addr, size_t len) {
  int map = atomic_load(&pf__own_pagemap), holds = -ENOSYS;
  uintptr_t at = (uintptr_t)addr;
  uint64_t features = pf_own_uffd_features(PF_OWN_ASYNC) | pf_own_uffd_features(PF_OWN_SERVED_ASYNC);
  if (map >= 0 && (features & PF_UFFD_FEATURE_WP_ASYNC)) { /* the kernel that has one has PAGEMAP_SCAN */
    holds = scan_holds(map, at, at + len);
  }
  if (map >= 0 && holds < 0) {
    holds = read_holds(map, at, at + len);
  }
  return holds < 0 ? pf_mem_resident(addr, len) : holds;
}

/* WRITTEN alone is also said of pages that were never there, and a page of the kernel's zeroes is WRITTEN though nobody wrote it. Swapped pages count.
 * Nothing absent may match when re-arming: that leaves marks, and page tables (docs/kernel.md). */
static int scan_written(uint64_t at, uint64_t end, uint64_t flags, pf_pagemap_region_t *found, size_t most, pf_own_range_t *each, void *context) {
  const pf_pagemap_query_t query = {
      .flags = flags,
      .inverted = PF_PAGE_IS_PFNZERO,
      .mask = PF_PAGE_IS_WRITTEN | PF_PAGE_IS_PFNZERO,
      .anyof = PF_PAGE_IS_PRESENT | PF_PAGE_IS_SWAPPED,
      .report = PF_PAGE_IS_WRITTEN,
  };
  while (at < end) {
    uint64_t walked = at;
    int count = pf_pagemap_scan(atomic_load(&pf__own_pagemap), at, end, &query, found, most, &walked);
    if (count < 0 && count != -EINTR) {
      return count;
    }
    for (int i = 0; i < count; i++) {
      each(context, (uint8_t *)(uintptr_t)found[i].start, (uint8_t *)(uintptr_t)found[i].end);
    }
    if (count >= 0 && walked <= at) {
      return -EIO; /* never seen; better than a loop without end */
    }
    at = count < 0 ? at : walked;
  }
  return 0;
}

int pf_own_uffd_written(void *addr, size_t len, pf_own_range_t *each, void *context) {
  pf_pagemap_region_t found[REGIONS_A_SCAN];
  return scan_written((uintptr_t)addr, (uintptr_t)addr + len, 0, found, REGIONS_A_SCAN, each, context);
}

int pf_own_uffd_arm(void *addr, size_t len, pf_own_range_t *each, void *context) {
  pf_pagemap_region_t found[REGIONS_AN_ARMING];
  uint64_t flags = PF_PM_SCAN_WP_MATCHING | PF_PM_SCAN_CHECK_WPASYNC;
  return scan_written((uintptr_t)addr, (uintptr_t)addr + len, flags, found, REGIONS_AN_ARMING, each, context);
}
