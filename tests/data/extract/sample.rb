#!/usr/bin/env ruby
require "json"
require_relative "lib/box"

# Outer things.
module Outer
  LIMIT = 3
  VERSION, OTHER = "1", "2"

  ##
  # A box.
  class Box < Base::Thing
    include Comparable
    attr_reader :size, :depth
    attr_accessor :lid
    MAX = 10
    @@count = 0

    # Opens it.
    def open(force = false, *args, key: 1, &block)
      local = 1
      @size = local
    end

    def self.create(size) = new(size)

    class << self
      def build; end
      attr_writer :config
    end

    def ==(other)
      size == other.size
    end

    def empty?; end
    def lid!; end
    alias_method :unlock, :open
    alias lock open
    define_method(:dynamic) { |x| x }
    private def secret; end
    Point = Struct.new(:x, :y) do
      def norm; end
    end
  end

  class Error < StandardError; end
  class Nested::Deep; end
  module_function def helper; end
end

def toplevel(a)
  [1].each { |x| y = x }
end
$global = 1
class Outer::Reopened
  def again; end
end
