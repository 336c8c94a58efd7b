/** The text as one word of a POSIX shell, whatever is in it. */
export function quoted(word: string): string {
  if (word.includes("\0")) throw new TypeError("Cannot quote a word that holds NUL");
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A command line of these words. */
export function commandLine(words: readonly string[]): string {
  return words.map(quoted).join(" ");
}
