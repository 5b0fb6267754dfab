/** The C program of tests for `pagefault/guests`, compiled once a process, and the store it knows by heart. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const programs = new Map<string, string>();

/** Path of the compiled program, of `test/fixtures/NAME.c`. */
export function guestProgram(name = 'guest-program'): string {
  const compiled = programs.get(name);
  if (compiled !== undefined) return compiled;
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-guest-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const program = join(folder, name);
  programs.set(name, program);
  const source = join(root, 'test', 'fixtures', `${name}.c`);
  const args = ['-std=c11', '-O2', '-Wall', '-Wextra', '-Werror', '-pthread', `-I${join(root, 'include')}`];
  const { status, stderr } = spawnSync(process.env['CC'] ?? 'cc', [...args, source, '-o', program], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`the guest program does not compile:\n${stderr}`);
  return program;
}

/** What the program expects `byteLength` bytes from `offset` of the store to be. */
export function fillStored(offset: number, into: Uint8Array): void {
  const words = new BigUint64Array(into.buffer, into.byteOffset, into.byteLength >> 3);
  let value = BigInt.asUintN(64, BigInt(offset) * 0x9e3779b97f4a7c15n);
  for (let i = 0; i < words.length; i++) {
    words[i] = value;
    value = BigInt.asUintN(64, value + 8n * 0x9e3779b97f4a7c15n);
  }
}
