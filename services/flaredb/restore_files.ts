import { toBinary } from "@bufbuild/protobuf";
import { equalBytes, fault, invalidField } from "@ultracloud/base";
import {
  type BackupHeader,
  BackupHeaderSchema,
  BackupKind,
  type RestoreRequest,
  type RestoreTarget,
} from "@ultracloud/proto/flaredb/v1";
import { createHash, type Hash } from "node:crypto";
import { backupFormat } from "./backup.ts";
import { checkDatabase } from "./domain/names.ts";

/** One backup on this disk, whole and as it was taken. */
export interface ReceivedBackup {
  readonly header: BackupHeader;
  readonly path: string;
}

/** What a restore was given; disposing it removes the files. */
export interface ReceivedBackups extends AsyncDisposable {
  readonly target: RestoreTarget;
  /** A full backup, then incremental ones that join it and each other. */
  readonly backups: readonly ReceivedBackup[];
}

/** A database of this size is restored file by file. */
const backupBytesMax = 64 * 2 ** 30;
const backupsMax = 1_000;

const damaged = (why: string) => fault("data_loss", "backup_damaged", `Cannot use the backup: ${why}`);

/** A file that is being received, with the digest of what came so far. */
class Receiving implements Disposable {
  readonly header: BackupHeader;
  readonly path: string;
  readonly #file: Deno.FsFile;
  readonly #hash: Hash;
  #bytes = 0;

  constructor(header: BackupHeader, path: string) {
    this.header = header;
    this.path = path;
    this.#file = Deno.openSync(path, { write: true, createNew: true, mode: 0o600 });
    this.#hash = createHash("sha256").update(toBinary(BackupHeaderSchema, header));
  }

  async take(chunk: Uint8Array): Promise<void> {
    this.#bytes += chunk.length;
    if (this.#bytes > backupBytesMax) {
      throw fault(
        "resource_exhausted",
        "backup_too_large",
        `Cannot take a backup of more than ${backupBytesMax} bytes`,
      );
    }
    this.#hash.update(chunk);
    for (let at = 0; at < chunk.length;) at += await this.#file.write(chunk.subarray(at));
  }

  end(bytes: bigint, sha256: Uint8Array): void {
    if (bytes !== BigInt(this.#bytes)) throw damaged(`it has ${this.#bytes} bytes, wanted ${bytes}`);
    if (!equalBytes(new Uint8Array(this.#hash.digest()), sha256)) throw damaged("its digest does not match");
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** Takes the parts in and checks that each backup is whole and that they join. */
export async function receiveBackups(
  options: { readonly dir: string; readonly id: number },
  requests: AsyncIterable<RestoreRequest>,
): Promise<ReceivedBackups> {
  const { dir, id } = options;
  const backups: ReceivedBackup[] = [];
  const paths: string[] = [];
  let target: RestoreTarget | undefined;
  let receiving: Receiving | undefined;
  const remove = async () => {
    for (const path of paths) await Deno.remove(path).catch(() => {});
  };
  try {
    for await (const { part } of requests) {
      if (part.case === "target") {
        if (target !== undefined) throw invalidField("target", "Cannot restore into two targets");
        target = part.value;
        checkDatabase(target.database, "target.database");
        continue;
      }
      if (target === undefined) throw invalidField("target", "Cannot restore without a target: wanted it first");
      const piece = part.case === "backup" ? part.value.part : { case: undefined };
      if (piece.case === "header") {
        if (receiving !== undefined) throw damaged("it ends without a footer");
        checkHeader(piece.value, backups.at(-1)?.header);
        if (backups.length >= backupsMax) throw damaged(`it has more than ${backupsMax} parts`);
        const path = `${dir}/restore-${id}-${backups.length}`;
        paths.push(path);
        receiving = new Receiving(piece.value, path);
      } else if (piece.case === "chunk") {
        if (receiving === undefined) throw damaged("it has no header");
        await receiving.take(piece.value);
      } else if (piece.case === "footer") {
        if (receiving === undefined) throw damaged("it has no header");
        receiving.end(piece.value.bytes, piece.value.sha256);
        receiving[Symbol.dispose]();
        backups.push({ header: receiving.header, path: receiving.path });
        receiving = undefined;
      } else throw damaged("a part of it has no content");
    }
    if (receiving !== undefined) throw damaged("it ends without a footer");
    if (target === undefined) throw invalidField("target", "Cannot restore without a target");
    if (backups.length === 0) throw invalidField("backup", "Cannot restore from nothing: wanted a full backup");
    return { target, backups, [Symbol.asyncDispose]: remove };
  } catch (error) {
    receiving?.[Symbol.dispose]();
    await remove();
    throw error;
  }
}

function checkHeader(header: BackupHeader, before: BackupHeader | undefined): void {
  if (header.format !== backupFormat) throw damaged(`it is of format ${header.format}, wanted ${backupFormat}`);
  if (before === undefined) {
    if (header.kind !== BackupKind.FULL) throw damaged("the first one must be a full backup");
    return;
  }
  if (header.kind !== BackupKind.INCREMENTAL) throw damaged("those behind the first must be incremental");
  if (header.database !== before.database || header.afterIndex !== before.index) {
    throw damaged(
      `what follows ${before.database} at ${before.index} is ${header.database} after ${header.afterIndex}`,
    );
  }
}
