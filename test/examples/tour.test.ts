/** The tour: both acts verify, unprivileged and where userfaultfd is refused, and it fails where something is wrong. */
import assert from 'node:assert/strict';
import { constants } from 'node:buffer';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { nobody, runConfined } from '../helpers/confined.js';
import { type Ran, runNode } from '../helpers/run.js';

const TOUR = 'examples/tour.js';
const ADDRESSED = constants.MAX_LENGTH >= 2 ** 36 ? '64 GiB' : '4 GiB';

function results({ stdout }: Ran): string[] {
  return stdout.split('\n').filter((line) => line.startsWith('Result: '));
}

function assertVerified(ran: Ran, backend: string): void {
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  assert.equal(ran.stderr, '');
  const [one = '', two = ''] = results(ran);
  assert.match(one, /read by touching memory, .*, equal to the file$/);
  assert.ok(two.startsWith(`Result: ${ADDRESSED} addressed, `), two);
  assert.match(two, /touched, [\d.]+ MiB of memory used \(.*\), all [\d,]+ numbers verified$/);
  assert.equal(ran.stdout.trimEnd().split('\n').at(-1), two);
  assert.match(ran.stdout, new RegExp(`^backend ${backend}: `, 'm'));
  assert.match(ran.stdout, /the store fails: read\(\) throws PageError/);
  assert.match(ran.stdout, /Fault latency, [\d,]+ faults/);
  assert.match(ran.stdout, /Page map/);
}

test('both acts verify here, and the SHA-256 is that of the runtime', async () => {
  const ran = await runNode(TOUR);
  assertVerified(ran, '(signal|mprotect)');
  const sha256 = createHash('sha256').update(readFileSync(process.execPath)).digest('hex');
  assert.ok(results(ran)[0]?.includes(sha256.slice(0, 16)));
});

test('under a seccomp filter that refuses userfaultfd it works with mprotect and says why', async () => {
  const ran = await runConfined({ denyUserfaultfd: true }, TOUR);
  assertVerified(ran, 'mprotect');
  assert.match(ran.stdout, /userfaultfd is refused here \(EPERM/);
});

const unprivileged = nobody();

test('as user nobody it works', { skip: 'reason' in unprivileged && unprivileged.reason }, async () => {
  assert.ok('uid' in unprivileged);
  assertVerified(await runConfined(unprivileged, TOUR), '(signal|mprotect)');
});

test('as user nobody under the filter it works', {
  skip: 'reason' in unprivileged && unprivileged.reason,
}, async () => {
  assert.ok('uid' in unprivileged);
  assertVerified(await runConfined({ ...unprivileged, denyUserfaultfd: true }, TOUR), 'mprotect');
});

test('a path given is the file of the first act, of any size', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-tour-'));
  try {
    for (const size of [1, 4096, 100_001]) {
      const path = join(folder, `${size}`);
      writeFileSync(path, new Uint8Array(size).fill(size));
      const ran = await runNode(TOUR, [path]);
      assertVerified(ran, '(signal|mprotect)');
      assert.ok(ran.stdout.startsWith(`Act 1: ${path}`));
    }
    const missing = await runNode(TOUR, [join(folder, 'missing')]);
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, /^The tour stopped: .*no such file/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
