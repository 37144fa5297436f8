#!/usr/bin/env lua
local json = require("json")
local lfs = require "lfs"

--- The limit.
local LIMIT = 3
counter = 0
local first, second = 1, 2

--- A box.
-- It holds.
local Box = { size = 1, open = function(self) end }
Box.__index = Box
Box.MAX = 10

--- Makes one.
function Box.new(size)
  local self = setmetatable({}, Box)
  local nested = function() local deep = 1 end
  return self
end

--[[
Opens it.
]]
function Box:open(force)
  self.lid = force
  for i = 1, 3 do local inner = i end
end

function Box.util.deep(a, ...) end

local function helper(a)
  return a + LIMIT
end

function top(a) return helper(a) end

local anonymous = function(x) return x end
Box.close = function(self) return self end

return { Box = Box, run = function() end }
