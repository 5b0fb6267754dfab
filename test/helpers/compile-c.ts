/** Small programs in C that tests run: compiled on first use, gone with the process. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './run.js';

/** The path of the program compiled from `test/helpers/NAME`. */
export function compileC(name: string): string {
  return compile(name, name.replace(/\.c$/, ''), []);
}

/** The path of the addon compiled from `test/helpers/NAME`. */
export function compileAddon(name: string): string {
  const headers = join(root, 'node_modules', 'node-api-headers', 'include');
  return compile(name, name.replace(/\.c$/, '.node'), ['-shared', '-fPIC', '-I', headers]);
}

function compile(name: string, out: string, flags: readonly string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-c-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755);
  const path = join(folder, out);
  const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
  const source = join(root, 'test', 'helpers', name);
  const built = spawnSync(command, [...prefix, '-Wall', '-Wextra', ...flags, source, '-o', path], { encoding: 'utf8' });
  if (built.status !== 0) throw new Error(`${name} cannot be compiled: ${built.stderr}`);
  return path;
}
