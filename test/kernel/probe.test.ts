/** probe: every finding agrees with what works, and every refusal says why. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { test } from 'node:test';
import { type Finding, type KernelProbe, pageSize, probe } from 'pagefault/kernel';
import { nobody, runConfined } from '../helpers/confined.js';
import { openFds } from '../helpers/descriptors.js';

const TIMEOUT = { timeout: 60_000 };

function findings(found: KernelProbe): Finding[] {
  const { userfaultfd, pagemapScan, processMadvise, pidfd, pidfdExitInfo, processMemory, memfd } = found;
  const { userModeOnly, kernelFaults, device } = userfaultfd;
  const ways = [userModeOnly, kernelFaults, device];
  return [...ways, pagemapScan, processMadvise, pidfd, pidfdExitInfo, processMemory, memfd];
}

test('the probe of this machine is consistent, and leaves nothing behind', TIMEOUT, () => {
  probe();
  const before = openFds();
  const maps = readFileSync('/proc/self/maps', 'latin1').split('\n').length;
  for (let i = 0; i < 20; i++) probe();
  assert.equal(openFds(), before);
  assert.ok(readFileSync('/proc/self/maps', 'latin1').split('\n').length - maps < 15);
  const found = probe();
  assert.equal(found.kernel, release());
  assert.equal(found.pageSize, pageSize());
  for (const { available, why } of findings(found)) {
    assert.equal(why === undefined, available);
    if (why !== undefined) assert.match(why, /^[A-Z/].*\S/);
  }
  const { userfaultfd } = found;
  assert.equal(userfaultfd.available, userfaultfd.ioctls.has('register'));
  assert.equal(
    userfaultfd.reasons.length,
    findings(found)
      .slice(0, 3)
      .filter(({ available }) => !available).length,
  );
  if (userfaultfd.available) assert.ok(userfaultfd.ioctls.has('copy') && userfaultfd.features.has('sigbus'));
  assert.equal(userfaultfd.features.has('minor-shmem'), userfaultfd.ioctls.has('continue'));
});

const SCRIPT = 'build/test/fixtures/print-probe.js';
const parse = (stdout: string) => JSON.parse(stdout) as KernelProbe & { names: string[] };

test('where a seccomp filter refuses the system call, the probe says so and looks at the device', TIMEOUT, async () => {
  const ran = await runConfined({ denyUserfaultfd: true }, SCRIPT, [], { timeoutMs: 30_000 });
  assert.equal(ran.code, 0, ran.stderr);
  const { userfaultfd, seccomp, names } = parse(ran.stdout);
  assert.equal(seccomp, 'filter');
  assert.equal(userfaultfd.userModeOnly.errno, 'EPERM');
  assert.match(userfaultfd.userModeOnly.why ?? '', /a seccomp filter is on\. Docker, Podman: /);
  assert.match(userfaultfd.kernelFaults.why ?? '', /a seccomp filter is on/);
  assert.equal(userfaultfd.available, userfaultfd.device.available);
  assert.equal(names.includes('sigbus'), userfaultfd.device.available);
});

const user = nobody();

test('a user without privileges is told what would allow faults of the kernel', {
  ...TIMEOUT,
  skip: 'reason' in user && user.reason,
}, async () => {
  const confinement = 'uid' in user ? { uid: user.uid } : {};
  const ran = await runConfined(confinement, SCRIPT, [], { timeoutMs: 30_000 });
  assert.equal(ran.code, 0, ran.stderr);
  const { userfaultfd, capSysPtrace, unprivilegedUserfaultfd } = parse(ran.stdout);
  assert.equal(capSysPtrace, false);
  assert.equal(userfaultfd.userModeOnly.available, true);
  if (unprivilegedUserfaultfd !== true && !userfaultfd.device.available) {
    assert.match(
      userfaultfd.kernelFaults.why ?? '',
      /vm\.unprivileged_userfaultfd=1, or give the process CAP_SYS_PTRACE/,
    );
    assert.match(userfaultfd.device.why ?? '', /\/dev\/userfaultfd/);
  }
});
