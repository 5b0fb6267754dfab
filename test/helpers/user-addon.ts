/** The addon of test/helpers/user-addon.c: what users write in C, at instructions that a debugger finds by name. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './run.js';

export interface UserAddon {
  /** Does nothing; a place for a breakpoint. Its argument is the address. */
  ready(view: Uint8Array): void;
  address(where: Uint8Array | bigint, offset?: number): bigint;
  load(where: Uint8Array | bigint, offset: number): number;
  store(where: Uint8Array | bigint, offset: number, value: number): void;
  /** Calls the address as a function. */
  jump(where: Uint8Array | bigint, offset?: number): void;
  overflow(where: Uint8Array | bigint): number;
  abort(): never;
  unmap(where: Uint8Array | bigint, offset: number, byteLength: number): number;
  protect(where: Uint8Array | bigint, offset: number, byteLength: number): number;
}

/** Compiles it; the file goes with the process. */
export function buildUserAddon(flags: readonly string[] = []): string {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-addon-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const headers = createRequire(import.meta.url)('node-api-headers') as { include_dir: string };
  const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
  const path = join(folder, 'user.node');
  const source = join(root, 'test', 'helpers', 'user-addon.c');
  const args = [...prefix, '-g', '-O1', '-Wall', '-Wextra', '-shared', '-fPIC', `-I${headers.include_dir}`, ...flags];
  const built = spawnSync(command, [...args, source, '-o', path], { encoding: 'utf8' });
  if (built.status !== 0) throw new Error(`user-addon.c cannot be compiled: ${built.stderr}`);
  return path;
}

export function loadUserAddon(path: string): UserAddon {
  return createRequire(import.meta.url)(path) as UserAddon;
}
