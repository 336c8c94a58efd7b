/** What a person types, one line at a time: the text, the cursor, and what was typed before. No terminal in here. */
export class LineEditor {
  text = "";
  /** Position in `text`, in UTF-16 units. */
  cursor = 0;
  readonly #history: string[];
  readonly #complete: (word: string) => readonly string[];
  /** Which line of the history is shown; its length for the new one. */
  #at: number;
  #draft = "";

  constructor(history: string[], complete: (word: string) => readonly string[]) {
    this.#history = history;
    this.#complete = complete;
    this.#at = history.length;
  }

  /**
   * Takes what one key sent. Answers what it means beyond editing: the line is done, the input ended, the line was
   * thrown away, or these are the words that could follow.
   */
  key(input: string): "line" | "end" | "cancel" | { readonly choices: readonly string[] } | undefined {
    switch (input) {
      case "\r":
      case "\n":
        return "line";
      case "\x03":
        return "cancel";
      case "\x04":
        return this.text === "" ? "end" : undefined;
      case "\t":
        return this.#completeWord();
      case "\x7f":
      case "\b":
        return this.#replace(this.#before(), this.cursor, "");
      case "\x1b[3~":
        return this.#replace(this.cursor, this.#after(), "");
      case "\x15":
        return this.#replace(0, this.cursor, "");
      case "\x0b":
        return this.#replace(this.cursor, this.text.length, "");
      case "\x1b[D":
        this.cursor = this.#before();
        return undefined;
      case "\x1b[C":
        this.cursor = this.#after();
        return undefined;
      case "\x01":
      case "\x1b[H":
        this.cursor = 0;
        return undefined;
      case "\x05":
      case "\x1b[F":
        this.cursor = this.text.length;
        return undefined;
      case "\x1b[A":
        return this.#recall(-1);
      case "\x1b[B":
        return this.#recall(1);
      default:
        // Other keys of the terminal are not text.
        // deno-lint-ignore no-control-regex -- these are the keys that are none
        return /[\x00-\x1f]/.test(input) ? undefined : this.#replace(this.cursor, this.cursor, input);
    }
  }

  #before(): number {
    return this.cursor - ([...this.text.slice(0, this.cursor)].at(-1)?.length ?? 0);
  }
  #after(): number {
    return this.cursor + ([...this.text.slice(this.cursor)][0]?.length ?? 0);
  }

  #replace(from: number, to: number, text: string): undefined {
    this.text = this.text.slice(0, from) + text + this.text.slice(to);
    this.cursor = from + text.length;
    return undefined;
  }

  #recall(step: number): undefined {
    const next = this.#at + step;
    if (next < 0 || next > this.#history.length) return undefined;
    if (this.#at === this.#history.length) this.#draft = this.text;
    this.#at = next;
    this.text = this.#history[next] ?? this.#draft;
    this.cursor = this.text.length;
    return undefined;
  }

  #completeWord(): { readonly choices: readonly string[] } | undefined {
    const word = /[\w.]*$/.exec(this.text.slice(0, this.cursor))![0];
    if (word === "") return undefined;
    const choices = [...new Set(this.#complete(word))].sort();
    if (choices.length === 0) return undefined;
    let common = choices[0]!;
    for (const choice of choices) while (!choice.startsWith(common)) common = common.slice(0, -1);
    if (common.length >= word.length) this.#replace(this.cursor - word.length, this.cursor, common);
    if (choices.length > 1) return { choices };
    return this.#replace(this.cursor, this.cursor, " ");
  }
}

const keywords =
  ("SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT OFFSET JOIN LEFT INNER CROSS ON USING AS DISTINCT UNION ALL " +
    "INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE INDEX VIEW TRIGGER DROP ALTER ADD COLUMN RENAME TO PRIMARY KEY " +
    "NOT NULL UNIQUE DEFAULT CHECK REFERENCES INTEGER REAL TEXT BLOB BEGIN COMMIT ROLLBACK EXPLAIN QUERY PLAN RETURNING " +
    "WITH RECURSIVE CASE WHEN THEN ELSE END AND OR IN IS LIKE BETWEEN EXISTS COUNT SUM AVG MIN MAX").split(" ");

/** Words that could complete `word`: names of the database, then SQL's own, in the case that was begun. */
export function completions(word: string, names: readonly string[]): string[] {
  const lower = word.toLowerCase();
  const own = names.filter((name) => name.toLowerCase().startsWith(lower));
  const small = word === lower;
  const words = keywords.filter((keyword) => keyword.toLowerCase().startsWith(lower));
  return [...own, ...words.map((keyword) => small ? keyword.toLowerCase() : keyword)];
}

/** Splits typed text at the semicolons that end statements; what is not ended comes back as `rest`. */
export function splitStatements(text: string): { readonly statements: string[]; readonly rest: string } {
  const statements: string[] = [];
  let start = 0;
  const pattern = /'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\/\*[\s\S]*?\*\/|;/g;
  for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
    if (match[0] !== ";") continue;
    const statement = text.slice(start, match.index).trim();
    // The body of a trigger holds statements of its own, up to END.
    if (/^create\s+(temp\w*\s+)?trigger\b/i.test(statement) && !/\bend$/i.test(statement)) continue;
    if (statement !== "") statements.push(statement);
    start = pattern.lastIndex;
  }
  return { statements, rest: text.slice(start).trimStart() };
}
