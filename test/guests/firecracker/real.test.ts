/** A real Firecracker, where one is on PATH, with a snapshot that the user has made: see docs/guests/firecracker.md. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { request } from 'node:http';
import { delimiter, join } from 'node:path';
import { test } from 'node:test';
import { serveFirecracker } from 'pagefault/guests';
import { until } from '../../helpers/descriptors.js';
import { freshPath } from '../../helpers/firecracker-vm.js';

function onPath(program: string): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  return folders
    .map((folder) => join(folder, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

const program = onPath('firecracker');
const folder = process.env['PAGEFAULT_FIRECRACKER_SNAPSHOT'];

function missing(): string | false {
  if (program === undefined) return 'no firecracker is on PATH';
  if (folder === undefined) return 'PAGEFAULT_FIRECRACKER_SNAPSHOT names no directory with vm.state and vm.mem';
  return existsSync('/dev/kvm') ? false : 'there is no /dev/kvm';
}

/** A call of Firecracker's API. */
function call(
  socketPath: string,
  method: string,
  path: string,
  body?: object,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method, path, headers: { 'content-type': 'application/json' } }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (part: string) => {
        text += part;
      });
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }));
    });
    sent.on('error', reject);
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

test('a VM of a real Firecracker runs on pages from here', { skip: missing(), timeout: 120_000 }, async () => {
  const from = folder ?? '';
  const server = await serveFirecracker({ socket: freshPath(), memory: join(from, 'vm.mem') });
  const api = freshPath('api');
  const vmm = spawn(program ?? '', ['--api-sock', api], { cwd: from, stdio: 'inherit' });
  try {
    await until(() => existsSync(api), 20_000);
    const loaded = await call(api, 'PUT', '/snapshot/load', {
      snapshot_path: join(from, 'vm.state'),
      mem_backend: { backend_type: 'Uffd', backend_path: server.socket },
      resume_vm: true,
    });
    assert.equal(loaded.status, 204, loaded.text);
    const [guest] = [...server.guests];
    assert.equal(guest?.pid, vmm.pid);
    await until(() => (guest?.numbers().faults ?? 0) > 0, 60_000);
    assert.match((await call(api, 'GET', '/')).text, /"state":\s*"Running"/);
    assert.equal(guest?.numbers().failures, 0);
    const gone = new Promise((resolve) => server.once('gone', resolve));
    vmm.kill('SIGKILL');
    await gone;
  } finally {
    vmm.kill('SIGKILL');
    await server.close();
  }
});
