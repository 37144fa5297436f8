//! The module.
const std = @import("std");
const Lid = @import("lid.zig").Lid;

/// The limit.
pub const limit: usize = 3;
var counter: u32 = 0;
threadlocal var local_to_thread: u8 = 0;

/// A box.
///
/// It holds.
pub const Box = struct {
    size: u32,
    lid: ?Lid = null,

    const Self = @This();
    pub const max = 10;

    /// Opens it.
    pub fn open(self: *Self, force: bool) !u32 {
        const hidden = 1;
        var other: u32 = hidden;
        other += self.size;
        return other;
    }

    pub const Inner = struct { deep: bool };
};

const Level = enum(u8) { low, high = 2, fn label(self: Level) []const u8 { return "x"; } };
const Value = union(enum) { int: i64, none };
const Failure = error{ Closed, Broken };
const Opaque = opaque {};

pub fn Generic(comptime T: type) type {
    return struct {
        items: []T,
        pub fn push(self: *@This(), item: T) void { _ = self; _ = item; }
    };
}

extern fn c_function(x: c_int) c_int;
export fn exported() void {}
inline fn helper(a: u32) u32 { return a + limit; }

test "opens" {
    const box = Box{ .size = 1 };
    try std.testing.expect(helper(box.size) == 4);
}
