package com.example.box

import com.example.Base
import kotlin.math.max as maximum
import kotlin.collections.*

/** The limit. */
const val LIMIT = 3
val names = listOf("a")
var counter: Int = 0
typealias Visit = (Box<*>) -> Unit

/**
 * A box.
 */
@Serializable
abstract class Box<T : Base>(val size: Int, private var lid: String = "", plain: Int) : Base(size), Shape {
    private val items = mutableListOf<T>()
    var depth: Int
        get() = 1
        set(value) { field = value }

    init { val local = 1 }
    constructor(x: String) : this(1, x, 2) { }

    // Opens.
    override suspend fun <R> open(force: Boolean): R? { val hidden = 1; fun nested() {}; return null }
    abstract fun go()
    companion object {
        const val MAX = 10
        fun create(): Box<Base>? = null
    }
    inner class Inner {
        val x = 1
    }
}

interface Shape {
    fun area(): Double
    val name: String
}
enum class Level(val weight: Int) {
    LOW(1), HIGH(2);
    fun label() = name
}
data class Point(val x: Int, val y: Int)
object Registry {
    val all = listOf<Point>()
}
sealed class Result {
    object Empty : Result()
    data class Full(val v: Int) : Result()
}
annotation class Marker(val value: String)
fun interface Handler {
    fun handle()
}
fun String.shout(): String = uppercase().let { val inner = it; inner }
val String.last: Char get() = this[length - 1]
fun top(a: Int, vararg rest: Int) = a + maximum(1, 2)
