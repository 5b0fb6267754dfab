/*
 * userfaultfd(2): probe, open, register, copy, zero. One descriptor a process, opened once and kept: closing it would
 * let every missing page read as zeroes. The ioctls may be called from any thread, in a signal handler too.
 */
#include "os.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

_Atomic int pf__uffd = -1;

/* A descriptor after the handshake, or -errno. `granted` may be NULL. */
static int open_uffd(int flags, uint64_t features, uint64_t *granted) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
  if (fd < 0) {
    return -errno;
  }
  struct pf_uffdio_api api = {.api = PF_UFFD_API, .features = features};
  if (ioctl(fd, PF_UFFDIO_API, &api) != 0) {
    int err = -errno;
    close(fd);
    return err;
  }
  if (granted != NULL) {
    *granted = api.features;
  }
  return fd;
}

static int close_if_open(int fd) {
  if (fd < 0) {
    return -fd;
  }
  close(fd);
  return 0;
}

void pf_uffd_probe(pf_uffd_probe_t *out) {
  *out = (pf_uffd_probe_t){0};
  out->user_mode_errno = close_if_open(open_uffd(PF_UFFD_USER_MODE_ONLY, 0, &out->features));
  if (out->user_mode_errno == 0) { /* with the feature that we need */
    out->user_mode_errno = close_if_open(open_uffd(PF_UFFD_USER_MODE_ONLY, PF_UFFD_FEATURE_SIGBUS, NULL));
  }
  out->kernel_mode_errno = close_if_open(open_uffd(0, 0, NULL));
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  out->device_errno = device >= 0 ? 0 : errno;
  if (device >= 0) {
    close(device);
  }
}

int pf_uffd_start(void) {
  if (atomic_load(&pf__uffd) >= 0) {
    return 0;
  }
  int fd = open_uffd(PF_UFFD_USER_MODE_ONLY, PF_UFFD_FEATURE_SIGBUS, NULL);
  if (fd == -EINVAL) {
    fd = open_uffd(0, PF_UFFD_FEATURE_SIGBUS, NULL); /* before 5.11 there was no such flag, and no need for it */
  }
  if (fd < 0) {
    return fd;
  }
  int expected = -1;
  if (!atomic_compare_exchange_strong(&pf__uffd, &expected, fd)) {
    close(fd);
  }
  return 0;
}

int pf_uffd_register(void *addr, size_t len) {
  struct pf_uffdio_register range = {
      .range = {.start = (uintptr_t)addr, .len = len},
      .mode = PF_UFFDIO_REGISTER_MODE_MISSING,
  };
  return ioctl(atomic_load(&pf__uffd), PF_UFFDIO_REGISTER, &range) == 0 ? 0 : -errno;
}

/* What a COPY or ZEROPAGE did. The kernel writes -errno into `moved` from 6.15 on and leaves it alone before, so that
 * it was preset to 0; a partial run is EAGAIN with moved > 0. */
static int outcome(int failed, int err, int64_t moved, size_t len, size_t *done) {
  if (!failed) {
    *done += len;
    return 0;
  }
  if (moved > 0) {
    *done += (size_t)moved;
    return -EAGAIN;
  }
  return -err;
}

int pf_uffd_copy(void *addr, const void *src, size_t len, size_t *done) {
  int fd = atomic_load_explicit(&pf__uffd, memory_order_relaxed);
  *done = 0;
  for (;;) {
    struct pf_uffdio_copy copy = {
        .dst = (uintptr_t)addr + *done,
        .src = (uintptr_t)src + *done,
        .len = len - *done,
        .mode = PF_UFFDIO_COPY_MODE_DONTWAKE, /* nobody waits in the kernel: faults are signals */
    };
    size_t before = *done;
    int failed = ioctl(fd, PF_UFFDIO_COPY, &copy) != 0;
    int result = outcome(failed, failed ? errno : 0, copy.copy, len - before, done);
    if (result != -EAGAIN || *done == before) {
      return result;
    }
  }
}

int pf_uffd_zero(void *addr, size_t len, size_t *done) {
  int fd = atomic_load_explicit(&pf__uffd, memory_order_relaxed);
  *done = 0;
  for (;;) {
    struct pf_uffdio_zeropage zero = {
        .range = {.start = (uintptr_t)addr + *done, .len = len - *done},
        .mode = PF_UFFDIO_COPY_MODE_DONTWAKE,
    };
    size_t before = *done;
    int failed = ioctl(fd, PF_UFFDIO_ZEROPAGE, &zero) != 0;
    int result = outcome(failed, failed ? errno : 0, zero.zeropage, len - before, done);
    if (result != -EAGAIN || *done == before) {
      return result;
    }
  }
}
