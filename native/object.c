/*
 * Shared memory: objects that lie over parts of any number of regions, in any number of processes. Filled once, by the store of whichever region touches
 * a page first; shown to all. The objects are here; what fills them is in fill.c, what lays them over regions in patch.c.
 *
 * A memory object of the kernel, sealed against shrinking, so that nobody who has it can take pages from under another's feet:
 *
 *     | bytes, up to a whole 2 MiB | one word for each page | a page that says what this is |
 *
 * The words are in the memory itself, because the processes that share it have nothing else in common. While a page is filled its word holds the number of who
 * does it. Everybody who has the memory has a number of its own, and holds a lock on the byte of that number in the object's file (a lock of the open
 * file, which the kernel lets go when its holder is gone, however it went): so a page that was being filled by a process which died is found out by the next
 * that wants it, whatever process numbers mean on either side. What others write into these words is not trusted with more than whether a page counts as filled,
 * and nobody is waited for longer than half of what a fault may take.
 *
 *     0 ──▶ number of who fills it ──▶ FILLED           within a process: 0 ──▶ the page that fills it ──▶ 0 (`claims`)
 *       pf_patch_claim         pf_patch_fill
 *     ◀── pf_patch_unclaim, or taken over
 */
#include "patch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MAGIC 0x3164657261687366ULL /* "fshared1" */
#define BLOCK ((uint64_t)1 << PF_PAGE_SHIFT_MAX)
#define TMPFS 0x01021994

typedef struct {
  uint64_t magic, length, page_size;
} header_t;

static uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

static size_t size_for(uint64_t length) {
  uint64_t data = round_up(length, BLOCK), page = pf_os_page_size();
  return (size_t)(data + round_up(data / page * sizeof(uint32_t), page) + page);
}

static void free_object(pf_object_t *object) {
  if (object->ours != NULL) {
    pf_mem_unmap(object->ours, object->size);
  }
  if (object->claims != NULL) {
    pf_mem_unmap((void *)object->claims, object->pages * sizeof *object->claims);
  }
  if (object->fd >= 0) {
    close(object->fd);
  }
  if (object->lock_fd >= 0) {
    close(object->lock_fd);
  }
  free(object);
}

static header_t *header_of(const pf_object_t *object) { return (header_t *)(void *)(object->ours + object->size - pf_os_page_size()); }

static struct flock byte_of(uint32_t number) {
  return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = number, .l_len = 1};
}

/* A number that nobody else has, and the lock that says so. The descriptor we were sent is the same open file as the sender's, and so would be its locks. */
static int take_number(pf_object_t *object) {
  static _Atomic uint64_t salt;
  char path[40];
  snprintf(path, sizeof path, "/proc/self/fd/%d", object->fd);
  object->lock_fd = open(path, O_RDWR | O_CLOEXEC);
  int err = object->lock_fd < 0 ? -errno : -EAGAIN;
  for (int tries = 0; err == -EAGAIN && tries < 64; tries++) {
    uint64_t mixed = (pf_now_ns() ^ (uint64_t)getpid() << 32 ^ atomic_fetch_add(&salt, 1)) * 0x9e3779b97f4a7c15ULL;
    uint32_t number = (uint32_t)(mixed >> 32);
    struct flock lock = byte_of(number);
    if (number == 0 || number == FILLED) {
      continue;
    }
    err = fcntl(object->lock_fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno == EACCES ? -EAGAIN : -errno;
    object->number = number;
  }
  return err;
}

bool pf__object_is_gone(const pf_object_t *object, uint32_t number) {
  struct flock lock = byte_of(number);
  return fcntl(object->lock_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

/* Maps what the descriptor is, which becomes the object's. */
static int set_up(pf_object_t *object, uint64_t length) {
  uint64_t data = round_up(length, BLOCK);
  void *claims;
  object->length = length;
  object->pages = data / pf_os_page_size();
  object->size = size_for(length);
  int err = pf_mem_map_ours(object->fd, object->size, &object->ours);
  err = err != 0 ? err : pf_mem_reserve(object->pages * sizeof *object->claims, "pagefault claims", &claims);
  if (err == 0) {
    object->claims = claims;
    object->words = (_Atomic uint32_t *)(void *)(object->ours + data);
    err = take_number(object);
  }
  return err;
}

int pf_object_create(uint64_t length, pf_object_t **out) {
  pf_object_t *object = calloc(1, sizeof *object);
  if (object == NULL || length == 0 || length > (uint64_t)1 << 46) {
    free(object);
    return object == NULL ? -ENOMEM : -EINVAL;
  }
  object->fd = object->lock_fd = -1;
  atomic_init(&object->holders, 1);
  int err = pf_mem_object(size_for(length), "pagefault shared", &object->fd);
  err = err != 0 ? err : set_up(object, length);
  if (err == 0) {
    *header_of(object) = (header_t){.magic = MAGIC, .length = length, .page_size = pf_os_page_size()};
    if (fcntl(object->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      err = -errno;
    }
  }
  if (err != 0) {
    free_object(object);
    return err;
  }
  *out = object;
  return 0;
}

/* 0 when it is what pf_object_create makes, and stays so; -EINVAL when not: other memory might be cut off under our feet, or be pages of another size. Other -errno: it
 * cannot be told now. */
static int look_at(int fd, header_t *header) {
  struct stat now;
  struct statfs system;
  int needed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & (needed | F_SEAL_WRITE)) != needed) {
    return -EINVAL;
  }
  if (fstatfs(fd, &system) != 0 || fstat(fd, &now) != 0) {
    return -errno;
  }
  off_t page = (off_t)pf_os_page_size();
  ssize_t got = system.f_type != TMPFS || now.st_size <= page ? 0 : pread(fd, header, sizeof *header, now.st_size - page);
  if (got < 0) {
    return -errno;
  }
  bool ours = got == sizeof *header && header->magic == MAGIC && header->page_size == pf_os_page_size() && header->length > 0 &&
              header->length <= (uint64_t)now.st_size && size_for(header->length) == (size_t)now.st_size;
  return ours ? 0 : -EINVAL;
}

int pf_object_adopt(int fd, pf_object_t **out) {
  header_t header;
  int err = look_at(fd, &header);
  if (err != 0) {
    return err;
  }
  pf_object_t *object = calloc(1, sizeof *object);
  if (object == NULL) {
    return -ENOMEM;
  }
  object->lock_fd = -1;
  atomic_init(&object->holders, 1);
  object->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  err = object->fd < 0 ? -errno : set_up(object, header.length);
  if (err != 0) {
    free_object(object);
    return err;
  }
  *out = object;
  return 0;
}

uint64_t pf_object_length(const pf_object_t *object) { return object->length; }
int pf_object_fd(const pf_object_t *object) { return object->fd; }

/* Bytes of the pages whose words are [first, end). */
static uint64_t count_filled(const pf_object_t *object, uint64_t first, uint64_t end) {
  uint64_t filled = 0, size = pf_os_page_size();
  for (uint64_t i = first; i < end && i * size < object->length; i++) {
    uint64_t bytes = object->length - i * size < size ? object->length - i * size : size;
    filled += atomic_load_explicit(&object->words[i], memory_order_relaxed) == FILLED ? bytes : 0;
  }
  return filled;
}

/* Only words that exist are looked at: a look would make the others. */
uint64_t pf_object_filled(const pf_object_t *object) {
  off_t words = (off_t)((const uint8_t *)object->words - object->ours), end = (off_t)(object->size - pf_os_page_size());
  uint64_t filled = 0;
  for (off_t at = words; at < end;) {
    off_t from = lseek(object->lock_fd, at, SEEK_DATA), to = from < 0 ? from : lseek(object->lock_fd, from, SEEK_HOLE);
    if (to < 0 || from >= end) {
      break;
    }
    to = to < end ? to : end;
    filled += count_filled(object, (uint64_t)(from - words) / sizeof *object->words, (uint64_t)(to - words) / sizeof *object->words);
    at = to;
  }
  return filled;
}

void pf__object_hold(pf_object_t *object) { atomic_fetch_add(&object->holders, 1); }

void pf_object_drop(pf_object_t *object) {
  if (atomic_fetch_sub(&object->holders, 1) == 1) {
    free_object(object);
  }
}
