// Puts the built core where an installed package looks for it, for the tarball that `npm pack` makes on this machine; with `--clean` takes it
// away again, because a clone must run what it has just built. A release collects the folders of all platforms before it packs.
import { copyFileSync, mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const musl = process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : '';
const folder = join(root, 'prebuilds', `${process.platform}-${process.arch}${musl}`);

if (process.argv.includes('--clean')) {
  rmSync(join(root, 'prebuilds'), { recursive: true, force: true });
} else {
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(root, 'build', 'Release', 'pagefault.node'), join(folder, 'pagefault.node'));
}
