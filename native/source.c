/*
 * Stores that the core serves itself: a file, memory, zeroes. Reading happens on the thread that faulted, in its signal handler, so
 * there is nothing here but pread, fstat and memcpy. A file that changes under the mapping fails closed: pages read before and after
 * the change must not be mixed silently.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int identity_of(int fd, pf_identity_t *out) {
  struct stat now;
  if (fstat(fd, &now) != 0) {
    return -errno;
  }
  *out = (pf_identity_t){
      .device = now.st_dev,
      .inode = now.st_ino,
      .size = (uint64_t)now.st_size,
      .mtime_s = now.st_mtim.tv_sec,
      .mtime_ns = now.st_mtim.tv_nsec,
      .linked = now.st_nlink > 0,
  };
  return 0;
}

/* `written`: by ourselves too, so that the time of the last change says nothing. */
static bool same_content(const pf_identity_t *a, const pf_identity_t *b, bool written) {
  return a->device == b->device && a->inode == b->inode && a->size == b->size &&
         (written || (a->mtime_s == b->mtime_s && a->mtime_ns == b->mtime_ns));
}

static bool is_permanent(int err) {
  return err == EBADF || err == EISDIR || err == EINVAL || err == EFAULT || err == EOVERFLOW || err == ESPIPE;
}

int pf_source_identify(pf_source_t *source) { return identity_of(source->fd, &source->identity[atomic_load(&source->current)]); }

/* Whether the file's name leads to another one by now. A name that leads nowhere does not: the file was unlinked, or is out of our reach. -errno: that cannot be told
 * now, and to take it for no would be to read, or write, a file that nobody will open again. */
static int other_at_path(const pf_source_t *source, const pf_identity_t *known) {
  struct stat at_path;
  if (stat(source->path, &at_path) == 0) {
    return at_path.st_dev != known->device || at_path.st_ino != known->inode;
  }
  return errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == ELOOP || errno == ENAMETOOLONG ? 0 : -errno;
}

int pf_source_rebase(pf_source_t *source) {
  if (source->kind != PF_SOURCE_FILE) {
    return 0;
  }
  uint32_t next = atomic_load(&source->current) ^ 1;
  int other = other_at_path(source, &source->identity[next ^ 1]);
  if (other < 0) {
    return other;
  }
  if (other > 0) {
    int fd = open(source->path, (source->written ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0) {
      return -errno;
    }
    int err = dup3(fd, source->fd, O_CLOEXEC) < 0 ? -errno : 0; /* in one step, under threads that read from it */
    close(fd);
    if (err != 0) {
      return err;
    }
  }
  int err = identity_of(source->fd, &source->identity[next]);
  if (err == 0) {
    atomic_store(&source->current, next);
  }
  return err;
}

/* PF_OK when the open file is still what was mapped. A file that was only unlinked is; one that another took the place of is not. `otherwise`: the code where that cannot
 * be told, with the errno. */
static pf_why_t look_at(const pf_source_t *source, pf_code_t otherwise) {
  const pf_identity_t *mapped = &source->identity[atomic_load_explicit(&source->current, memory_order_acquire)];
  pf_identity_t now;
  int err = identity_of(source->fd, &now);
  bool same = err == 0 && same_content(mapped, &now, source->written);
  if (same && !now.linked && mapped->linked) {
    int other = other_at_path(source, &now);
    err = other < 0 ? other : 0;
    same = other == 0;
  }
  return err != 0 ? (pf_why_t){.code = otherwise, .err = -err} : (pf_why_t){.code = same ? PF_OK : PF_E_CHANGED};
}

/* What the page cache has is read at once (RWF_NOWAIT, 4.14); for the rest the caller may have to wait. */
static ssize_t read_some(const pf_source_t *source, uint64_t offset, uint8_t *into, size_t len, const pf_wait_t *wait) {
  struct iovec part = {.iov_base = into, .iov_len = len};
  if (wait != NULL && wait->tid != 0) { /* a service thread's */
    ssize_t n = preadv2(source->fd, &part, 1, (off_t)offset, RWF_NOWAIT);
    if (n > 0) {
      return n;
    }
    pf_about_to_block();
  }
  return pread(source->fd, into, len, (off_t)offset);
}

static bool read_file(const pf_source_t *source, uint64_t offset, uint8_t *into, size_t len, const pf_wait_t *wait, pf_why_t *why, bool *permanent) {
  size_t got = 0;
  *permanent = true;
  while (got < len) {
    ssize_t n = read_some(source, source->offset + offset + got, into + got, len - got, wait);
    if (n > 0) {
      got += (size_t)n;
    } else if (n == 0) {
      *why = source->check ? look_at(source, PF_E_STORE) : (pf_why_t){0};
      *permanent = why->code != PF_E_STORE || is_permanent(why->err);
      why->code = why->code == PF_OK ? PF_E_SHORT : why->code;
      return false;
    } else if (errno != EINTR) {
      *why = (pf_why_t){.code = PF_E_STORE, .err = errno};
      *permanent = is_permanent(errno);
      return false;
    }
  }
  /* After the read: what was read before a change is the mapped content, what was read after it is not, and here both fail. */
  *why = source->check ? look_at(source, PF_E_STORE) : (pf_why_t){0};
  *permanent = why->code != PF_E_STORE || is_permanent(why->err);
  return why->code == PF_OK;
}

/* The bytes may be paged themselves, and the thread that copies them would be their faults' own. */
static void about_to_copy(const uint8_t *from, const pf_wait_t *wait) {
  pf_region_t *paged = wait != NULL && wait->tid != 0 ? pf_region_at((uintptr_t)from) : NULL;
  if (paged != NULL) {
    pf_region_leave(paged);
    pf_about_to_block();
  }
}

bool pf_source_read(const pf_source_t *source, uint64_t offset, uint8_t *into, size_t len, const pf_wait_t *wait, pf_why_t *why, bool *permanent) {
  switch (source->kind) {
    case PF_SOURCE_FILE:
      return read_file(source, offset, into, len, wait, why, permanent);
    case PF_SOURCE_MEMORY:
      about_to_copy(source->bytes + offset, wait);
      memcpy(into, source->bytes + offset, len);
      return true;
    case PF_SOURCE_ZERO:
    case PF_SOURCE_PAGER:
      break;
  }
  memset(into, 0, len);
  return true;
}

/* --- writing ------------------------------------------------------------------------------------------------------------------ */

/* Before a write: writing behind the end of a file that was cut off would make a hole of what somebody else took away, and a file that another took the
 * place of is one that nobody will open again. A file that is cut off between the look and the write is not noticed. */
bool pf_source_look(const pf_source_t *source, pf_why_t *why) {
  if (source->kind != PF_SOURCE_FILE || !source->check) {
    return true;
  }
  *why = look_at(source, PF_E_WRITE);
  return why->code == PF_OK;
}

static bool write_file(const pf_source_t *source, uint64_t offset, const uint8_t *from, size_t len, pf_why_t *why) {
  for (size_t done = 0; done < len;) {
    ssize_t n = pwrite(source->fd, from + done, len - done, (off_t)(source->offset + offset + done));
    if (n > 0) {
      done += (size_t)n;
    } else if (n == 0 || errno != EINTR) {
      *why = (pf_why_t){.code = PF_E_WRITE, .err = n == 0 ? EIO : errno};
      return false;
    }
  }
  return true;
}

bool pf_source_write(const pf_source_t *source, uint64_t offset, const uint8_t *from, size_t len, pf_why_t *why) {
  if (source->kind == PF_SOURCE_FILE) {
    return write_file(source, offset, from, len, why);
  }
  if (source->kind == PF_SOURCE_MEMORY) {
    memcpy((uint8_t *)(uintptr_t)source->bytes + offset, from, len);
    return true;
  }
  *why = (pf_why_t){.code = PF_E_WRITE, .err = EROFS};
  return false;
}

bool pf_source_sync(const pf_source_t *source, pf_why_t *why) {
  int err = 0;
  while (source->kind == PF_SOURCE_FILE && fdatasync(source->fd) != 0 && (err = errno) == EINTR) {
    err = 0;
  }
  if (err != 0) {
    *why = (pf_why_t){.code = PF_E_SYNC, .err = err};
  }
  return err == 0;
}

void pf_source_close(pf_source_t *source) {
  if (source->kind == PF_SOURCE_PAGER && source->pager != NULL) {
    pf_pager_drop(source->pager);
    source->pager = NULL;
  }
  if (source->kind == PF_SOURCE_FILE && source->fd >= 0) {
    close(source->fd);
    source->fd = -1;
  }
  free(source->path);
  source->path = NULL;
  if (source->owned != NULL) {
    pf_mem_unmap(source->owned, source->owned_len);
    source->owned = NULL;
  }
}
