module Boxes

using LinearAlgebra, Base.Threads
using ..Other: helper, lift
import Base: show, length
include("lid.jl")
export Box, open_box

"The limit."
const LIMIT = 3
counter = 0
global shared = 1

"""
A box.
"""
struct Box{T<:Real} <: Shape
    size::Int
    lid::T
    Box(size) = new(size, 1)
end

mutable struct Lid
    weight
end

abstract type Shape end
primitive type Bits 8 end

"""
    open_box(box, force)

Opens it.
"""
function open_box(box::Box{T}, force=false; key=1) where {T}
    local hidden = 1
    inner(x) = x + hidden
    value = inner(box.size)
    return value
end

# Short.
area(b::Box) = b.size * LIMIT
Base.show(io::IO, b::Box) = print(io, b.size)
function Base.length(b::Box) b.size end
(b::Box)(x) = x
macro twice(x)
    :($x * 2)
end
@enum Level LOW HIGH
@inline fast(x) = x
@kwdef struct Options
    deep::Int = 1
end
anonymous = x -> x + 1
+(a::Box, b::Box) = a

end
