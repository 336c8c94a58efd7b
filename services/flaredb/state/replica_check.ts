import type { Database } from "@ultracloud/sqlite";
import { type Testimony, type Verdict, verdictOf } from "../domain/verdict.ts";
import type { Meta } from "./schema.ts";

/** A digest of the content at an index. */
export interface ContentDigest {
  readonly index: number;
  readonly sha256: string;
}

/** Checks that are remembered, so that two at a time do not end each other. */
const checksHeld = 8;
/** Stands for this replica's own digest; members count from 1. */
const self = 0;

interface Row {
  readonly member: number;
  readonly votes: number;
  readonly sha256: string | null;
}

/**
 * What replicas said about their content, and whether this one was found to differ. The reports come through the log;
 * the own digest and the finding are this replica's alone, and go when its content is replaced by another's. All of it
 * is left out of digests.
 */
export class ReplicaCheck {
  readonly #db: Database;
  readonly #meta: Meta;
  #diverged = false;
  #newest: ContentDigest | undefined;
  /** A report may be due; spares a look-up after every entry. */
  #due = true;

  constructor(db: Database, meta: Meta) {
    this.#db = db;
    this.#meta = meta;
  }

  load(): void {
    this.#diverged = this.#meta.get("diverged_index") > 0;
    this.#newest = this.#db.get<{ index: number; sha256: string }>(
      `SELECT idx AS "index", sha256 FROM _uc_check WHERE member=? ORDER BY idx DESC LIMIT 1`,
      self,
    );
    this.#due = true;
  }

  /** This replica's content was found to differ from that of most. */
  get diverged(): boolean {
    return this.#diverged;
  }
  /** The own digest at the newest check. */
  get newest(): ContentDigest | undefined {
    return this.#newest;
  }

  /** A check at this index, by those who hold the database. */
  begin(
    { index, sha256 }: ContentDigest,
    { voters, learners }: { readonly voters: readonly number[]; readonly learners: readonly number[] },
  ): void {
    const insert = "INSERT INTO _uc_check VALUES(?,?,?,?)";
    this.#db.run(insert, index, self, 0, sha256);
    for (const member of new Set(voters)) this.#db.run(insert, index, member, 1, null);
    for (const member of new Set(learners)) {
      if (!voters.includes(member)) this.#db.run(insert, index, member, 0, null);
    }
    this.#db.run(
      `DELETE FROM _uc_check WHERE idx NOT IN (SELECT DISTINCT idx FROM _uc_check ORDER BY idx DESC LIMIT ${checksHeld})`,
    );
    this.#newest = { index, sha256 };
    this.#due = true;
  }

  /** A member's report; its first one counts. One about a check that is forgotten says nothing. */
  report({ index, sha256 }: ContentDigest, member: number): void {
    this.#db.run("UPDATE _uc_check SET sha256=? WHERE idx=? AND member=? AND sha256 IS NULL", sha256, index, member);
    const own = this.#db.get<Row>("SELECT * FROM _uc_check WHERE idx=? AND member=?", index, self)?.sha256;
    const verdict = verdictOf(this.testimonies(index));
    if (verdict.kind !== "agreed" || own === undefined || own === verdict.sha256 || this.#diverged) return;
    this.#meta.set("diverged_index", index);
    this.#diverged = true;
  }

  /** Who holds the database, and what each said at that check; empty when it is forgotten. */
  testimonies(index: number): Testimony[] {
    return this.#db.all<Row>("SELECT member, votes, sha256 FROM _uc_check WHERE idx=? AND member<>?", index, self)
      .map(({ member, votes, sha256 }) => ({ member, votes: votes === 1, sha256: sha256 ?? undefined }));
  }

  /** What the newest check that anybody began says. */
  verdict(): Verdict {
    const index = this.#db.get<{ idx: number | null }>("SELECT max(idx) AS idx FROM _uc_check")?.idx ?? 0;
    return verdictOf(this.testimonies(index));
  }

  /** The oldest own digest that the others do not know yet. */
  unreported(member: number): ContentDigest | undefined {
    if (!this.#due) return undefined;
    const digest = this.#db.get<{ index: number; sha256: string }>(
      `SELECT own.idx AS "index", own.sha256 FROM _uc_check AS own JOIN _uc_check AS told USING(idx)
       WHERE own.member=? AND told.member=? AND told.sha256 IS NULL ORDER BY own.idx LIMIT 1`,
      self,
      member,
    );
    this.#due = digest !== undefined;
    return digest;
  }

  /** The content is another replica's from now on. */
  forget(): void {
    this.#db.run("DELETE FROM _uc_check WHERE member=?", self);
    this.#meta.set("diverged_index", 0);
    this.load();
  }
}
