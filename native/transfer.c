/*
 * Transfers between a region and a descriptor, or a caller's bytes. On a loader's thread (loader.c). Bytes go through a buffer of the transfer's own, so that no
 * system call is given paged memory, which would be EFAULT, and no page is kept in memory while somebody at the other end is slow.
 *
 * A page is made ready (loaded; for a write, agreed by the store) before bytes are taken from where they could not be put back to: a pipe, a socket. From a file they
 * are read first, and the place in it is put back should the page not be had. Waits look at `cancel` and at the end of the region every 50 ms.
 */
#include "thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define BUFFER ((size_t)1 << 17)
#define LOOK_MS 50
#define REPORT_NS 50000000ULL

typedef struct {
  pf_job_t *job;
  uint8_t *buffer;
  size_t size;
  bool file;     /* it is always ready, and what was read from it can be read again */
  bool socket;
  size_t at_once; /* bytes that a descriptor which is ready takes without waiting */
  uint64_t reported;
} transfer_t;

int pf_transfer_fd(int fd) {
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return own < 0 ? -errno : own;
}

/* --- the region's side ------------------------------------------------------------------------------------------------------ */

static bool must_stop(pf_job_t *job) {
  if (job->why.code != PF_OK) {
    return true;
  }
  if (atomic_load(&job->region->phase) != PF_PHASE_OPEN) {
    job->why = (pf_why_t){.code = PF_E_CLOSED};
  } else if (atomic_load(&job->cancel) != 0) {
    job->why = (pf_why_t){.code = PF_E_ABORTED};
  }
  return job->why.code != PF_OK;
}

/* The page is held. True: it is there and, for a write, the store has agreed. */
static bool make_ready(pf_job_t *job, uint64_t page, bool write) {
  pf_region_t *region = job->region;
  uint64_t left = ((job->offset + job->len - 1) >> region->page_shift) + 1 - page;
  pf_wait_t wait = {
      .deadline_ns = pf_now_ns() + region->timeout_ns,
      .cancel = &job->cancel,
      .heal = true,
      .background = true,
      .write = write,
      .window = left < region->window_max ? (uint32_t)left : region->window_max,
  };
  pf_thread_t *thread = pf_thread_begin_wait(region, page, &wait);
  bool ready = false, goes_on = true;
  while (goes_on && !ready && pf_page_ensure(region, page, &wait, &job->why)) {
    ready = !write || pf_track_of(region, page) != PF_TRACK_FAULT || pf_marks(region, page) & PF_M_WRITABLE;
    goes_on = ready || pf_page_admit_write(region, page, &wait, &job->why);
    if (goes_on && !ready && pf_now_ns() >= wait.deadline_ns) {
      job->why = (pf_why_t){.code = PF_E_TIMEOUT};
      goes_on = false;
    }
  }
  pf_thread_end_wait(thread);
  return ready;
}

/* Keeps a page that is ready until it is let go; false: job->why, and nothing is held. */
static bool hold_ready(pf_job_t *job, uint64_t page, bool write) {
  job->failed_page = page;
  if (pf_page_hold(job->region, page) != 0) {
    job->why = (pf_why_t){.code = PF_E_NO_MEMORY};
    return false;
  }
  if (make_ready(job, page, write)) {
    return true;
  }
  pf_page_unhold(job->region, page);
  return false;
}

/* Bytes from `offset` to the end of its page. */
static size_t to_page_end(const pf_region_t *region, uint64_t offset) {
  size_t size = pf_page_size(region);
  return size - (size_t)(offset & (size - 1));
}

/* Copies out of the region (`write`: into it), page by page. Returns how many bytes; fewer with job->why. */
static size_t copy(pf_job_t *job, uint64_t offset, uint8_t *bytes, size_t len, bool write) {
  pf_region_t *region = job->region;
  size_t done = 0;
  while (done < len && !must_stop(job)) {
    size_t page_end = to_page_end(region, offset + done), part = page_end < len - done ? page_end : len - done;
    uint64_t page = (offset + done) >> region->page_shift;
    if (!hold_ready(job, page, write)) {
      break;
    }
    bool copied = write ? pf_region_copy_in(region, offset + done, bytes + done, part, &job->failed_page, &job->why)
                        : pf_region_copy_out(region, offset + done, bytes + done, part, &job->failed_page, &job->why);
    pf_page_unhold(region, page);
    if (!copied) {
      break;
    }
    done += part;
  }
  return done;
}

static void advance(transfer_t *transfer, size_t bytes) {
  pf_job_t *job = transfer->job;
  atomic_fetch_add(&job->bytes_done, bytes);
  if (job->progress != NULL && pf_now_ns() - transfer->reported > REPORT_NS) {
    transfer->reported = pf_now_ns();
    job->progress(job);
  }
}

/* --- the descriptor's side -------------------------------------------------------------------------------------------------- */

/* False: the job must stop. */
static bool wait_until_ready(const transfer_t *transfer, short what) {
  struct pollfd look = {.fd = transfer->job->fd, .events = what};
  for (;;) {
    if (must_stop(transfer->job)) {
      return false;
    }
    int ready = transfer->file ? 1 : poll(&look, 1, LOOK_MS); /* an error of the descriptor shows again when it is read or written */
    if (ready > 0) {
      return true;
    }
    if (ready < 0 && errno != EINTR) { /* to try would be to wait in the kernel, where nobody can call it off: EINVAL where RLIMIT_NOFILE is 0 */
      transfer->job->fd_errno = errno;
      return false;
    }
  }
}

static ssize_t put_once(const transfer_t *transfer, const uint8_t *bytes, size_t len) {
  const pf_job_t *job = transfer->job;
  if (job->position >= 0) {
    return pwrite(job->fd, bytes, len, (off_t)((uint64_t)job->position + atomic_load(&job->bytes_done)));
  }
  return transfer->socket ? send(job->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL) : write(job->fd, bytes, len);
}

static ssize_t get_once(const transfer_t *transfer, size_t len) {
  const pf_job_t *job = transfer->job;
  if (job->position >= 0) {
    return pread(job->fd, transfer->buffer, len, (off_t)((uint64_t)job->position + atomic_load(&job->bytes_done)));
  }
  return transfer->socket ? recv(job->fd, transfer->buffer, len, MSG_DONTWAIT) : read(job->fd, transfer->buffer, len);
}

/* After a call that gave `result`. True: it is to be made again. */
static bool once_more(transfer_t *transfer, ssize_t result) {
  if (result >= 0) {
    return false;
  }
  if (errno == EINTR || ((errno == EAGAIN || errno == EWOULDBLOCK) && !transfer->file)) {
    return true;
  }
  transfer->job->fd_errno = errno;
  return false;
}

/* True: all of it is written. */
static bool put(transfer_t *transfer, size_t len) {
  pf_job_t *job = transfer->job;
  for (size_t done = 0; done < len;) {
    if (!wait_until_ready(transfer, POLLOUT)) {
      return false;
    }
    size_t part = len - done < transfer->at_once ? len - done : transfer->at_once;
    ssize_t written = put_once(transfer, transfer->buffer + done, part);
    if (once_more(transfer, written)) {
      continue;
    }
    if (written <= 0) {
      job->fd_errno = written == 0 ? EIO : job->fd_errno;
      return false;
    }
    done += (size_t)written;
    advance(transfer, (size_t)written);
  }
  return true;
}

static void write_to(transfer_t *transfer) {
  pf_job_t *job = transfer->job;
  for (;;) {
    uint64_t done = atomic_load(&job->bytes_done), left = job->len - done;
    if (left == 0 || must_stop(job)) {
      return;
    }
    size_t len = left < transfer->size ? (size_t)left : transfer->size;
    size_t got = copy(job, job->offset + done, transfer->buffer, len, false);
    pf_why_t why = job->why; /* what lies before a page that cannot be had is still written */
    bool given_up = why.code == PF_E_CLOSED || why.code == PF_E_ABORTED;
    job->why = given_up ? why : (pf_why_t){0};
    if (!put(transfer, got)) {
      return;
    }
    job->why = why;
  }
}

/* Reads once, at most `len` bytes. 0: the end, or job->fd_errno, or the job must stop. */
static size_t get(transfer_t *transfer, size_t len) {
  while (!must_stop(transfer->job)) {
    ssize_t got = get_once(transfer, len);
    if (!once_more(transfer, got)) {
      return got < 0 ? 0 : (size_t)got;
    }
    if (!wait_until_ready(transfer, POLLIN)) {
      return 0;
    }
  }
  return 0;
}

/* What is read from a file and finds no page is given back to it. */
static bool take_from_file(transfer_t *transfer, uint64_t offset, size_t len) {
  pf_job_t *job = transfer->job;
  size_t got = get(transfer, len);
  size_t kept = copy(job, offset, transfer->buffer, got, true);
  if (kept < got && job->position < 0) {
    lseek(job->fd, (off_t)kept - (off_t)got, SEEK_CUR);
  }
  advance(transfer, kept);
  return got > 0 && kept == got;
}

/* What is read from a pipe cannot be given back, so its page is there first. */
static bool take_from_pipe(transfer_t *transfer, uint64_t offset, size_t len) {
  pf_job_t *job = transfer->job;
  pf_region_t *region = job->region;
  size_t page_end = to_page_end(region, offset);
  uint64_t page = offset >> region->page_shift;
  if (!wait_until_ready(transfer, POLLIN) || !hold_ready(job, page, true)) {
    return false;
  }
  size_t most = len < page_end ? len : page_end, got = get(transfer, most < transfer->size ? most : transfer->size);
  bool kept = got > 0 && pf_region_copy_in(region, offset, transfer->buffer, got, &job->failed_page, &job->why);
  pf_page_unhold(region, page);
  if (kept) {
    advance(transfer, got);
  }
  return kept;
}

static void read_from(transfer_t *transfer) {
  pf_job_t *job = transfer->job;
  for (bool goes_on = true; goes_on;) {
    uint64_t done = atomic_load(&job->bytes_done), left = job->len - done;
    if (left == 0 || must_stop(job)) {
      return;
    }
    size_t len = left < transfer->size ? (size_t)left : transfer->size;
    goes_on = transfer->file ? take_from_file(transfer, job->offset + done, len) : take_from_pipe(transfer, job->offset + done, len);
  }
}

/* --- transfers -------------------------------------------------------------------------------------------------------------- */

/* A pipe or terminal that blocks, and is ready, takes this much without blocking (Linux: a free slot of a page). */
#define WITHOUT_BLOCKING 4096

static bool look_at(transfer_t *transfer) {
  struct stat about;
  pf_job_t *job = transfer->job;
  if (fstat(job->fd, &about) != 0) {
    job->fd_errno = errno;
    return false;
  }
  transfer->file = S_ISREG(about.st_mode) || S_ISBLK(about.st_mode) || S_ISDIR(about.st_mode);
  transfer->socket = S_ISSOCK(about.st_mode);
  int flags = fcntl(job->fd, F_GETFL);
  if ((flags & O_ACCMODE) == (job->kind == PF_JOB_WRITE_TO ? O_RDONLY : O_WRONLY) && !S_ISDIR(about.st_mode)) {
    job->fd_errno = EBADF; /* it would never be ready */
    return false;
  }
  if (job->position >= 0 && !transfer->file && lseek(job->fd, 0, SEEK_CUR) < 0) {
    job->fd_errno = errno;
    return false;
  }
  bool blocks = (flags & O_NONBLOCK) == 0;
  bool waits = S_ISFIFO(about.st_mode) || (S_ISCHR(about.st_mode) && isatty(job->fd) == 1);
  transfer->at_once = blocks && waits ? WITHOUT_BLOCKING : SIZE_MAX;
  return true;
}

static void with_descriptor(transfer_t *transfer) {
  pf_job_t *job = transfer->job;
  size_t page = pf_os_page_size();
  uint64_t wanted = (job->len + page - 1) & ~(uint64_t)(page - 1);
  transfer->size = wanted < BUFFER ? (size_t)wanted : BUFFER;
  void *buffer;
  if (pf_mem_reserve(transfer->size, "pagefault transfer", &buffer) != 0) {
    job->why = (pf_why_t){.code = PF_E_NO_MEMORY};
    job->failed_page = job->first;
    return;
  }
  transfer->buffer = buffer;
  if (look_at(transfer)) {
    if (job->kind == PF_JOB_WRITE_TO) {
      write_to(transfer);
    } else {
      read_from(transfer);
    }
  }
  pf_mem_unmap(buffer, transfer->size);
}

void pf_transfer_run(pf_job_t *job) {
  transfer_t transfer = {.job = job, .reported = pf_now_ns()};
  job->failed_page = job->first;
  if (job->kind == PF_JOB_WRITE_TO || job->kind == PF_JOB_READ_FROM) {
    with_descriptor(&transfer);
    return;
  }
  atomic_store(&job->bytes_done, copy(job, job->offset, job->bytes, (size_t)job->len, job->kind == PF_JOB_COPY_IN));
}
