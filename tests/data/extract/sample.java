package com.example.box;

import java.util.List;
import java.util.*;
import static java.lang.Math.max;

/**
 * A box.
 *
 * <p>It holds.
 */
@Deprecated
public abstract class Box<T extends Base> extends Base implements Shape, Comparable<T> {
    public static final int LIMIT = 3, OTHER = 4;
    private final List<T> items = new ArrayList<>();
    protected int size, depth[];

    static { int local = 1; }

    /** Makes one. */
    public Box(int size) { this.size = size; int local = size; }

    @Override
    public <R> R open(final boolean force) throws IOException {
        Runnable run = () -> { int hidden = 1; };
        class Local { int inner; }
        return new Visitor() { public void visit(Node n) { } }.get();
    }

    abstract void go();

    interface Shape { double area(); int SIDES = 4; default String name() { return "x"; } }

    enum Level {
        LOW, HIGH(2) { void special() { } };
        private final int weight;
        Level(int... w) { weight = 1; }
    }

    record Point(int x, int y) { Point { } static Point origin() { return null; } }

    @interface Marker { String value() default ""; }
}

class Second { }
