package com.example.box

import scala.collection.mutable
import java.util.{List => JList, Map}

/** A box. */
@deprecated
abstract class Box[T <: Base](val size: Int, lid: String) extends Base(size) with Shape {
  val items: List[T] = Nil
  private var depth, width = 0
  lazy val heavy = { val hidden = 1; hidden }
  type Item = T

  // Opens.
  override def open[R](force: Boolean)(implicit ctx: Context): R = { val local = 1; def nested(x: Int) = x; ??? }
  def go(): Unit
  val declared: Int
  def this(x: Int) = this(x, "")
  class Inner { def deep = 1 }
}

object Box {
  val Limit = 3
  def apply(size: Int): Box[Base] = null
  implicit class Rich(s: String) { def shout = s.toUpperCase }
}

sealed trait Shape { def area: Double; val name: String }
case class Point(x: Int, y: Int) extends Shape
case object Empty extends Shape
package object util { def helper(a: Int) = a }
enum Level(val weight: Int) { case Low extends Level(1); case High, Higher }
given ordering: Ordering[Point] = ???
extension (p: Point) def norm: Double = 1.0
def top(a: Int): Int = a + 1
val (left, right) = (1, 2)
type Pair[A] = (A, A)
