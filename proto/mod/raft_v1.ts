export * from "../gen/ultracloud/raft/v1/raft_pb.ts";
