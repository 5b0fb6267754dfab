/** Programs run as a container would run them: see seccomp-exec.c, which is compiled here on first use. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Ran, type RunOptions, root, run } from './run.js';

export interface Confinement {
  denyUserfaultfd?: boolean;
  /** Needs root. */
  uid?: number;
}

const NOBODY = 65_534;
let launcher: string | undefined;

function compile(): string {
  if (launcher !== undefined) return launcher;
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-launcher-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755); // the launcher starts itself as another user
  const path = join(folder, 'seccomp-exec');
  const source = join(root, 'test', 'helpers', 'seccomp-exec.c');
  const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
  const built = spawnSync(command, [...prefix, '-Wall', '-Wextra', '-Werror', source, '-o', path], {
    encoding: 'utf8',
  });
  if (built.status !== 0) throw new Error(`the launcher cannot be compiled: ${built.stderr}`);
  launcher = path;
  return path;
}

/** Runs a script of the project with this Node, confined. */
export function runConfined(
  confinement: Confinement,
  script: string,
  args: readonly string[] = [],
  options: RunOptions = {},
): Promise<Ran> {
  const limits = [
    ...(confinement.uid === undefined ? [] : ['--uid', String(confinement.uid)]),
    ...(confinement.denyUserfaultfd === true ? ['--deny-userfaultfd'] : []),
  ];
  return run(compile(), [...limits, process.execPath, script, ...args], options);
}

/** Runs as user nobody where that is possible: as root, in a folder that others may read. Else the reason why not. */
export function nobody(): { uid: number } | { reason: string } {
  if (process.getuid?.() !== 0) return { reason: 'only root can start a program as another user' };
  const args = ['--uid', String(NOBODY), process.execPath, '-e', "require('node:fs').accessSync('dist/index.js')"];
  const { status } = spawnSync(compile(), args, { cwd: root });
  return status === 0 ? { uid: NOBODY } : { reason: 'the project is in a folder that user nobody cannot read' };
}
