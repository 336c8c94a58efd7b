import { fault, utf8 } from "@ultracloud/base";

/*
 * The part of a medium's boot menu that differs from site to site, /boot/grub/site.cfg: nobody types a kernel's
 * parameters at a BMC or a stick. It always has the same length, so that it can be replaced where it lies in an image,
 * and every way of booting stays as it was.
 */

/** First line of that file: how it is found in an image. */
export const siteMark = "# UltraCloud: parameters of this medium's site. Rewritten in place; keep the length.";
/** Room for every parameter at its longest: twice what most kernels take as a command line. */
export const siteBytes = 4096;

/** The file with these words for the kernel. What the boot loader would give a meaning to is refused. */
export function siteConfig(words: string): Uint8Array {
  const wrong = /[^\x20-\x7e]|["'$\\`]/.exec(words);
  if (wrong !== null) {
    throw fault(
      "invalid_argument",
      "parameters_invalid",
      `Cannot hand over a parameter with ${JSON.stringify(wrong[0])}: wanted printable characters but " ' $ \\ \``,
    );
  }
  const text = `${siteMark}\nset ultracloud_params="${words}"\n`;
  if (text.length < siteBytes) return utf8.encode(text.padEnd(siteBytes - 1, "#") + "\n");
  throw fault(
    "invalid_argument",
    "parameters_invalid",
    `Cannot put parameters of ${words.length} characters into a medium`,
  );
}
