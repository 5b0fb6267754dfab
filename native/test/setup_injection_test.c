/* sanitizers: address,none */
/*
 * Every system call by which memory, descriptors, handlers and threads are set up fails, in each way that it can, the first time or a later one, in a process of its
 * own, because much of it is done once a process. Then the segment is made or refused with the reason and the call's name, nothing is left behind, and once the call
 * works again so does everything else: the same segment can be made, pages are right, what was written is stored. Never zeroes, and no wait without an end.
 */
#include "write_support.h"

#include "inject.h"

#include <dlfcn.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* --- which call fails ---------------------------------------------------------------------------------------------------------- */

typedef enum {
  USERFAULTFD, API, REGISTER, UNREGISTER, PROTECT, SCAN, PAGEMAP, MEMFD, FTRUNCATE, MMAP, MREMAP, MPROTECT, DONTFORK, REMOVE, DONTNEED,
  PIDFD, EVENTFD, EVENT_WRITE, AFFINITY, THREAD, SIGACTION, CALLS
} call_t;

static const injected_t injected_calls[CALLS] = {
    [USERFAULTFD] = {"userfaultfd", {EPERM, ENOSYS, EMFILE, ENFILE, ENOMEM}},
    [API] = {"UFFDIO_API", {EINVAL, EPERM}},
    [REGISTER] = {"UFFDIO_REGISTER", {ENOMEM, EINVAL, EBUSY, EPERM}},
    [UNREGISTER] = {"UFFDIO_UNREGISTER", {EINVAL, ENOMEM}},
    [PROTECT] = {"UFFDIO_WRITEPROTECT", {EAGAIN, ENOMEM}},
    [SCAN] = {"PAGEMAP_SCAN", {ENOMEM, EINTR, ENOTTY}},
    [PAGEMAP] = {"open", {EMFILE, ENFILE, EACCES, ENOMEM, ENOENT}},
    [MEMFD] = {"memfd_create", {EMFILE, ENFILE, ENOMEM, ENOSYS}},
    [FTRUNCATE] = {"ftruncate", {ENOMEM, EFBIG, EPERM}},
    [MMAP] = {"mmap", {ENOMEM, EAGAIN}},
    [MREMAP] = {"mremap", {ENOMEM}},
    [MPROTECT] = {"mprotect", {ENOMEM, EACCES}},
    [DONTFORK] = {"madvise", {EINVAL, ENOMEM}},
    [REMOVE] = {"madvise", {ENOMEM, EINTR}},
    [DONTNEED] = {"madvise", {ENOMEM, EAGAIN}},
    [PIDFD] = {"pidfd_open", {EMFILE, ENFILE, ENOMEM, ENOSYS}},
    [EVENTFD] = {"eventfd", {EMFILE, ENFILE, ENOMEM, ENODEV}},
    [EVENT_WRITE] = {"write", {EINTR}},
    [AFFINITY] = {"sched_setaffinity", {EPERM, EINVAL}},
    [THREAD] = {"pthread_create", {EAGAIN, EPERM}},
    [SIGACTION] = {"sigaction", {EINVAL}},
};

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  long argument = va_arg(list, long);
  va_end(list);
  unsigned type = request >> 8 & 0xff, number = request & 0xff;
  bool uffd = type == 0xaa;
  int call = uffd && number == 0x3f ? API : uffd && number == 0 ? REGISTER : uffd && number == 1 ? UNREGISTER : uffd && number == 6 ? PROTECT : -1;
  call = type == 'f' && number == 16 ? SCAN : call;
  int how = call < 0 ? 0 : must_fail(call);
  const long with[6] = {fd, (long)request, argument};
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_ioctl, with);
}

long syscall(long number, ...) {
  SYSCALL_ARGUMENTS(number, with);
  int how = number == SYS_userfaultfd ? must_fail(USERFAULTFD) : number == SYS_pidfd_open ? must_fail(PIDFD) : 0;
  return how != 0 ? fail(how) : raw_syscall(number, with);
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  long mode = flags & O_CREAT ? va_arg(list, int) : 0;
  va_end(list);
  int how = strstr(path, "pagemap") != NULL ? must_fail(PAGEMAP) : 0;
  const long with[6] = {AT_FDCWD, (long)path, flags, mode};
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_openat, with);
}

int memfd_create(const char *name, unsigned flags) {
  int how = must_fail(MEMFD);
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_memfd_create, (const long[6]){(long)name, flags});
}

int ftruncate(int fd, off_t len) {
  int how = must_fail(FTRUNCATE);
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_ftruncate, (const long[6]){fd, len});
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset) {
  int how = must_fail(MMAP);
  return (void *)(how != 0 ? (long)fail(how) : raw_syscall(SYS_mmap, (const long[6]){(long)addr, (long)len, prot, flags, fd, offset}));
}

void *mremap(void *addr, size_t old, size_t len, int flags, ...) {
  va_list list;
  va_start(list, flags);
  long to = flags & MREMAP_FIXED ? va_arg(list, long) : 0;
  va_end(list);
  int how = must_fail(MREMAP);
  return (void *)(how != 0 ? (long)fail(how) : raw_syscall(SYS_mremap, (const long[6]){(long)addr, (long)old, (long)len, flags, to}));
}

int mprotect(void *addr, size_t len, int prot) {
  int how = must_fail(MPROTECT);
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_mprotect, (const long[6]){(long)addr, (long)len, prot});
}

int madvise(void *addr, size_t len, int advice) {
  int call = advice == MADV_DONTFORK ? DONTFORK : advice == MADV_REMOVE ? REMOVE : advice == MADV_DONTNEED ? DONTNEED : -1;
  int how = call < 0 ? 0 : must_fail(call);
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_madvise, (const long[6]){(long)addr, (long)len, advice});
}

int eventfd(unsigned start, int flags) {
  int how = must_fail(EVENTFD);
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_eventfd2, (const long[6]){start, flags});
}

ssize_t write(int fd, const void *from, size_t len) {
  int how = len == sizeof(uint64_t) ? must_fail(EVENT_WRITE) : 0;
  return how != 0 ? fail(how) : raw_syscall(SYS_write, (const long[6]){fd, (long)from, (long)len});
}

int sched_setaffinity(pid_t tid, size_t size, const cpu_set_t *set) {
  int how = must_fail(AFFINITY);
  return how != 0 ? fail(how) : (int)raw_syscall(SYS_sched_setaffinity, (const long[6]){tid, (long)size, (long)set});
}

/* These two do more than a system call. */
static void *next_of(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  must(found != NULL, name);
  return found;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *data) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  void *found = next_of("pthread_create");
  memcpy(&real, &found, sizeof real);
  int how = must_fail(THREAD);
  return how != 0 ? how : real(thread, attr, body, data);
}

int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
  int (*real)(int, const struct sigaction *, struct sigaction *);
  void *found = next_of("sigaction");
  memcpy(&real, &found, sizeof real);
  int how = must_fail(SIGACTION);
  return how != 0 ? fail(how) : real(number, action, old);
}

/* --- a life of a segment ------------------------------------------------------------------------------------------------------------ */

#define PAGES 12

typedef struct {
  pf_backend_t backend;
  bool writable, by_pager;
  int call, after, how;
} plan_t;

static bool serve_pattern(test_store_t *store, const pf_order_t *order) {
  (void)store;
  (void)order;
  return true;
}

static test_store_t store = {.serve = serve_pattern};

static pf_region_t *try_region(const plan_t *plan, pf_source_t *source, int *err, const char **step) {
  pf_region_options_t options = {.backend = plan->backend, .source = *source, .byte_length = PAGES * PAGE, .store_length = PAGES * PAGE, .page_size = PAGE,
                                 .timeout_ms = 300, .stall_after_ms = 50, .name = "x", .store_name = "x", .writable = plan->writable};
  pf_region_t *region = NULL;
  *step = "";
  *err = pf_region_create(&options, &region, step);
  return *err == 0 ? region : NULL;
}

/* Raw touches and writes while calls fail: right, or an error with a reason. */
static void use(const plan_t *plan, pf_region_t *region, uint8_t *model) {
  pf_failure_t failure;
  for (uint64_t page = 0; page < PAGES; page++) {
    if (pf_attempt_begin() != 0) {
      continue;
    }
    uint8_t byte = touch(region, page * PAGE + 9);
    bool failed = pf_attempt_end(&failure);
    EXPECT(failed ? failure.why.code != PF_OK && failure.message[0] != '\0' : byte == model[page]);
    if (plan->writable && page % 3 == 0 && pf_attempt_begin() == 0) {
      poke(region, page * PAGE + 9, (uint8_t)(page + 200));
      model[page] = pf_attempt_end(&failure) ? model[page] : (uint8_t)(page + 200);
    }
    if (page % 4 == 3) {
      stage_page(region, page - 1);
    }
  }
  if (plan->writable) {
    flushing_t flush = {.job = {.region = region, .end = PAGES, .kind = PF_JOB_FLUSH, .done = on_flush_done}};
    int err = pf_loader_submit(&flush.job);
    EXPECT(err == 0 || err == -EAGAIN || err == -EPERM);
    if (err == 0) {
      end_flush(&flush);
    }
  }
  release(region, 0, PAGES);
}

static void live(const plan_t *plan) {
  int stored = -1, err;
  const char *step;
  uint8_t model[PAGES];
  for (uint64_t page = 0; page < PAGES; page++) {
    model[page] = pattern(page * PAGE + 9);
  }
  pf_source_t source;
  if (plan->by_pager) {
    start_store(&store);
    source = pager_source(&store);
  } else {
    source = writable_file(PAGES * PAGE, &stored);
  }
  unsigned before = count_descriptors();
  arm(plan->call, 0, plan->after, plan->how);
  pf_region_t *region = try_region(plan, &source, &err, &step);
  if (region == NULL) {
    disarm();
    EXPECT(err < 0 && step[0] != '\0');
    EXPECT_EQ(pf_region_count(), 0);
    EXPECT_EQ(count_descriptors(), before + pf_os_descriptors());
    EXPECT(plan->by_pager || fcntl(source.fd, F_GETFD) >= 0);
    region = try_region(plan, &source, &err, &step);
    EXPECT_EQ(err, 0); /* it was not for ever */
    if (region == NULL) {
      printf("  refused again: %s at %s\n", strerror(-err), step);
      return;
    }
  }
  use(plan, region, model);
  disarm();
  region->timeout_ns = 20000 * MS;
  for (uint64_t page = 0; page < PAGES; page++) {
    pf_why_t why;
    EXPECT(ensure(region, page, 20000, true, &why));
    EXPECT_EQ(touch(region, page * PAGE + 9), model[page]);
  }
  if (plan->writable) {
    EXPECT_EQ(flush_all(region), PF_OK);
  }
  for (uint64_t page = 0; stored >= 0 && page < PAGES; page++) {
    EXPECT_EQ(stored_byte(stored, page * PAGE + 9), model[page]);
  }
  EXPECT(close_region(region));
  EXPECT_EQ(pf_region_count(), 0);
  EXPECT_EQ(count_descriptors() + (plan->by_pager ? 0 : 1), before + pf_os_descriptors()); /* the source's own is closed */
  if (plan->by_pager) {
    stop_store(&store);
  }
}

/* --- one process a failure ------------------------------------------------------------------------------------------------------------ */

/* What `live` finds in a process of its own. */
static bool lives(const plan_t *plan) {
  fflush(stdout);
  alarm(patience(60)); /* each of them has a minute */
  pid_t child = fork();
  must(child >= 0, "a process");
  if (child == 0) {
    alarm(patience(60));
    int had = atomic_load(&unmet);
    live(plan);
    fflush(stdout);
    _exit(atomic_load(&unmet) == had ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) {
    printf("  %s %s %s: %s number %d said %s, status %x\n", backend_name(plan->backend), plan->writable ? "writable" : "read-only",
           plan->by_pager ? "by a pager" : "of a file", plan->call < 0 ? "nothing" : injected_calls[plan->call].name, plan->after, strerror(plan->how), status);
  }
  return status == 0;
}

static void each_call(pf_backend_t backend) {
  for (int kind = 0; kind < 3; kind++) {
    plan_t plan = {.backend = backend, .writable = kind == 1, .by_pager = kind == 2, .call = -1};
    for (plan.call = 0; plan.call < CALLS; plan.call++) {
      bool often = plan.call == MMAP || plan.call == MPROTECT || plan.call == DONTFORK || plan.call == USERFAULTFD || plan.call == API;
      bool of_pager = plan.call == EVENT_WRITE || plan.call == AFFINITY;
      if (plan.call == EVENTFD || (kind == 2 && !of_pager && plan.call != THREAD)) {
        continue; /* the same as of a file */
      }
      for (int which = 0; which < HOWS && injected_calls[plan.call].how[which] != 0; which++) {
        plan.how = injected_calls[plan.call].how[which];
        for (plan.after = 0; plan.after < (which != 0 ? 1 : often ? 5 : 2); plan.after++) {
          EXPECT(lives(&plan));
        }
      }
    }
  }
}

/* A pager that cannot be made is a reason, and leaves nothing. */
static void pagers(pf_backend_t backend) {
  (void)backend;
  unsigned before = count_descriptors();
  for (int which = 0; which < HOWS && injected_calls[EVENTFD].how[which] != 0; which++) {
    pf_pager_t *pager = NULL;
    int fd = -1;
    arm(EVENTFD, 0, 0, injected_calls[EVENTFD].how[which]);
    EXPECT_EQ(pf_pager_create(&pager, &fd), -injected_calls[EVENTFD].how[which]);
    disarm();
    EXPECT(pager == NULL && fd == -1);
  }
  EXPECT_EQ(count_descriptors(), before);
}

/* ------------------------------------------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)

int main(void) {
  test_each("whatever fails while a segment is set up, it is made or refused, and can be made afterwards", each_call);
  test_on(PF_BACKEND_SIGNAL, "a pager that cannot be made is refused with the reason", pagers);
  return summary();
}

#else

int main(void) { return summary(); } /* a raw touch cannot be let go on elsewhere, so that one that fails would end the test */

#endif
