/*
 * pidfds, how children end, and the memory of another process.
 */
#include "support.h"

#include "process.h"

static pid_t start(int code, int number) {
  pid_t child = fork();
  must(child >= 0, "fork");
  if (child == 0) {
    if (number != 0) {
      raise(number);
    }
    _exit(code);
  }
  return child;
}

static void wait_until_ended(int pidfd) {
  while (pf_is_readable(pidfd) == 0) {
    pf_sleep_until(pf_now_ns() + MS);
  }
}

static void one_end(int code, int number, int expected_code, int expected_status) {
  pf_status_t status = {0};
  pid_t child = start(code, number);
  int pidfd = pf_pidfd_open(child);
  must(pidfd >= 0, "pidfd_open");
  wait_until_ended(pidfd);
  for (int i = 0; i < 2; i++) { /* looking takes nothing away */
    EXPECT_EQ(pf_pidfd_wait(pidfd, PF_WAIT_PEEK, &status), 1);
    EXPECT_EQ(status.code, expected_code);
    EXPECT_EQ(status.status, expected_status);
  }
  EXPECT_EQ(pf_pidfd_wait(pidfd, PF_WAIT_STOPS, &status), -ECHILD); /* none that could stop */
  status = (pf_status_t){0};
  EXPECT_EQ(pf_pidfd_wait(pidfd, PF_WAIT_REAP, &status), 1);
  EXPECT_EQ(status.code, expected_code);
  EXPECT_EQ(pf_pidfd_wait(pidfd, PF_WAIT_PEEK, &status), -ECHILD);
  EXPECT_EQ(pf_pidfd_signal(pidfd, SIGTERM), -ESRCH);
  status = (pf_status_t){0};
  if (pf_pidfd_exit(pidfd, &status) == 1) { /* 6.15 */
    EXPECT_EQ(status.code, expected_code);
    EXPECT_EQ(status.status, expected_status);
  }
  close(pidfd);
}

static void ends(pf_backend_t backend) {
  (void)backend;
  one_end(0, 0, CLD_EXITED, 0);
  one_end(255, 0, CLD_EXITED, 255);
  one_end(0, SIGKILL, CLD_KILLED, SIGKILL);
  one_end(0, SIGTERM, CLD_KILLED, SIGTERM);
}

static int wait_for_stop(int pidfd, pf_status_t *status) {
  int found = 0;
  for (int i = 0; i < LONG_MS && found == 0; i++) {
    found = pf_pidfd_wait(pidfd, PF_WAIT_STOPS, status);
    pf_sleep_until(pf_now_ns() + MS);
  }
  return found;
}

static void stops(pf_backend_t backend) {
  (void)backend;
  pf_status_t status;
  pid_t child = start(3, SIGSTOP);
  int pidfd = pf_pidfd_open(child);
  EXPECT_EQ(wait_for_stop(pidfd, &status), 1);
  EXPECT(status.code == CLD_STOPPED && status.status == SIGSTOP);
  EXPECT_EQ(pf_pidfd_wait(pidfd, PF_WAIT_STOPS, &status), 0); /* it was taken */
  EXPECT_EQ(pf_pidfd_wait(pidfd, PF_WAIT_PEEK, &status), 0);
  EXPECT_EQ(pf_pidfd_exit(pidfd, &status) == 1, false);
  EXPECT_EQ(pf_pidfd_signal(pidfd, SIGCONT), 0);
  wait_until_ended(pidfd);
  EXPECT_EQ(pf_pidfd_wait(pidfd, PF_WAIT_REAP, &status), 1);
  EXPECT(status.code == CLD_EXITED && status.status == 3);
  close(pidfd);
}

static void refused(pf_backend_t backend) {
  (void)backend;
  pf_status_t status;
  EXPECT_EQ(pf_pidfd_open(0), -EINVAL);
  EXPECT_EQ(pf_pidfd_open(-5), -EINVAL);
  EXPECT_EQ(pf_pidfd_open(4194304), -ESRCH);
  int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  EXPECT(pf_pidfd_wait(file, PF_WAIT_PEEK, &status) < 0);
  EXPECT(pf_pidfd_exit(file, &status) < 0);
  EXPECT(pf_pidfd_signal(file, 0) < 0);
  close(file);
  EXPECT_EQ(pf_is_readable(4000), -EBADF);
  EXPECT_EQ(pf_duplicate(4000), -EBADF);
}

static void memory(pf_backend_t backend) {
  (void)backend;
  uint8_t *shared = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(shared != MAP_FAILED, "mmap");
  for (size_t i = 0; i < 3 * PAGE; i++) {
    shared[i] = (uint8_t)(i * 13);
  }
  munmap(shared + 2 * PAGE, PAGE);
  pid_t child = fork();
  must(child >= 0, "fork");
  if (child == 0) {
    pause();
    _exit(0);
  }
  uint8_t *into = malloc(3 * PAGE);
  EXPECT_EQ(pf_process_read(child, (uintptr_t)shared + 5, into, PAGE), PAGE);
  EXPECT_EQ(memcmp(into, shared + 5, PAGE), 0);
  EXPECT_EQ(pf_process_read(child, (uintptr_t)shared, into, 3 * PAGE), 2 * PAGE); /* as far as it is mapped */
  EXPECT_EQ(pf_process_read(child, 16, into, 8), -EFAULT);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  EXPECT_EQ(pf_process_read(child, (uintptr_t)shared, into, 8), -ESRCH);
  free(into);
  munmap(shared, 2 * PAGE);
}

int main(void) {
  test_on(PF_BACKEND_MPROTECT, "the ways in which a child ends are told apart, before and after it is reaped", ends);
  test_on(PF_BACKEND_MPROTECT, "a stop is taken, an end is left", stops);
  test_on(PF_BACKEND_MPROTECT, "what is no process is refused", refused);
  test_on(PF_BACKEND_MPROTECT, "memory of another process is read as far as it is mapped", memory);
  return summary();
}
